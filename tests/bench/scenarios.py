"""What is measured: for each scenario a configuration, a load and a target.

A configuration is a frame that all share, as a site in production would have it, and what the scenario is about. Targets are
ratios to nginx unless the rule says otherwise.
"""

from dataclasses import dataclass
from enum import Enum

from load import H2load, Load, Messages, Steady, Wrk


class Rule(str, Enum):
    """How a target is to be read."""

    RATIO = "ratio"
    """a's figure over b's is at most the target, the median of all pairs."""
    COUNT = "count"
    """a's figure, all pairs together, is at most the target."""
    LEAST = "least"
    """a's figure is at least the target."""
    FLAT = "flat"
    """a's figures at the end are at most the target times those at the beginning."""


class Kind(str, Enum):
    """What is done to the servers; `measure.py` has a function for each."""

    LOAD = "load"
    IDLE = "idle"
    CHECK = "check"
    RELOAD = "reload"
    LATENCY = "latency"
    WORKERS = "workers"
    MIXED = "mixed"


@dataclass(frozen=True)
class Scenario:
    name: str
    target: float
    about: str
    load: Load = Wrk()
    kind: Kind = Kind.LOAD
    rule: Rule = Rule.RATIO
    figures: tuple[str, ...] = ("cpu_us",)
    """What the target is about. The first is the one in the picture."""
    http: str = ""
    server: str = "location / { }"
    listen: str = ""
    log: str = "logs/access.log main buffer=32k flush=5s"
    upstream: str = ""
    """Who is behind the servers: nginx, echo, sink or application."""
    stretch: float = 1.0
    """How much longer than others its load takes: where requests are large and few, those that the end cuts count."""
    warm: float = 1.0
    """How much longer its warm-up takes: where each of many files shall have been asked for before."""
    cached: str = ""
    """What $upstream_cache_status is when the load's answer is asked for a second time."""


FRAME = """\
@USER@
daemon off;
worker_processes @WORKERS@;
worker_rlimit_nofile 65535;
pid logs/pid;
error_log logs/error.log error;
events { worker_connections 65535; }
http {
    types {
        text/html html htm;  text/css css;  text/plain txt;  application/xml xml;
        application/x-javascript js;  image/png png;  image/jpeg jpg jpeg;
    }
    default_type application/octet-stream;
    log_format main '$remote_addr - $remote_user [$time_local] "$request" "$request_time" "$upstream_response_time" '
                    '$status $body_bytes_sent "$http_referer" "$http_user_agent" $http_x_forwarded_for $host $hostname';
    access_log @LOG@;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    client_header_buffer_size 4k;
    large_client_header_buffers 4 32k;
    client_max_body_size 64m;
    open_file_cache max=65535 inactive=20s;
    open_file_cache_valid 30s;
    open_file_cache_min_uses 1;
    gzip_types text/plain text/css application/xml application/x-javascript;
    proxy_buffer_size 16k;
    proxy_buffers 4 64k;
    proxy_cache_path cache levels=2:2:2 keys_zone=zone:@ZONE@ inactive=5d max_size=7g;
    @HTTP@
    server {
        listen 127.0.0.1:@PORT@ @LISTEN@;
        server_name bench.test;
        root @ROOT@;
        @SERVER@
    }
}
"""

# The upstream. Its files are open and its connections are kept, so that it is never what is waited for.
UPSTREAM = """\
@USER@
daemon off;
worker_processes 1;
worker_rlimit_nofile 65535;
pid logs/pid;
error_log logs/error.log crit;
events { worker_connections 16384; }
http {
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path temp/body; proxy_temp_path temp/proxy; fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi; scgi_temp_path temp/scgi;
    sendfile on; tcp_nopush on;
    keepalive_requests 1000000000; keepalive_timeout 300s;
    open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;
    server {
        listen 127.0.0.1:@PORT@;
        root @ROOT@;
        location / { }
        location /unique/ { rewrite ^ /4k.bin break; }
    }
}
"""

KEPT = """
    upstream peer { server 127.0.0.1:@UPSTREAM@; keepalive 128; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
"""
CLOSED = """
    upstream peer { server 127.0.0.1:@UPSTREAM@; }
    proxy_http_version 1.0;
    proxy_set_header Connection close;
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
"""
PASS = "location / { proxy_pass http://peer; }"
CACHE = """
        add_header X-Cache $upstream_cache_status;
        location / {
            proxy_pass http://peer;
            proxy_cache zone;
            proxy_cache_key $scheme$host$request_uri;
            proxy_cache_valid 200 1h;
        }
"""
TLS = """
        ssl_certificate @CERTIFICATE@;
        ssl_certificate_key @KEY@;
        ssl_protocols TLSv1.2 TLSv1.3;
        location / { }
"""
SESSIONS = "ssl_session_cache shared:SSL:10m;"
GZIP = "gzip on; gzip_comp_level 2; gzip_min_length 1024;"
WEBSOCKET = """
        location / {
            proxy_pass http://peer;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout 600s;
        }
"""
WEBSOCKET_MAP = """
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    upstream peer { server 127.0.0.1:@UPSTREAM@; }
"""
FASTCGI = """
        location / {
            fastcgi_pass application;
            fastcgi_keep_conn on;
            fastcgi_param QUERY_STRING       $query_string;
            fastcgi_param REQUEST_METHOD     $request_method;
            fastcgi_param CONTENT_TYPE       $content_type;
            fastcgi_param CONTENT_LENGTH     $content_length;
            fastcgi_param SCRIPT_NAME        $fastcgi_script_name;
            fastcgi_param SCRIPT_FILENAME    $document_root$fastcgi_script_name;
            fastcgi_param REQUEST_URI        $request_uri;
            fastcgi_param DOCUMENT_URI       $document_uri;
            fastcgi_param DOCUMENT_ROOT      $document_root;
            fastcgi_param SERVER_PROTOCOL    $server_protocol;
            fastcgi_param REQUEST_SCHEME     $scheme;
            fastcgi_param GATEWAY_INTERFACE  CGI/1.1;
            fastcgi_param SERVER_SOFTWARE    nginx/$nginx_version;
            fastcgi_param REMOTE_ADDR        $remote_addr;
            fastcgi_param REMOTE_PORT        $remote_port;
            fastcgi_param SERVER_ADDR        $server_addr;
            fastcgi_param SERVER_PORT        $server_port;
            fastcgi_param SERVER_NAME        $server_name;
            fastcgi_param REDIRECT_STATUS    200;
        }
"""
MIXED = """
        listen 127.0.0.1:@TLS@ ssl;
        ssl_certificate @CERTIFICATE@;
        ssl_certificate_key @KEY@;
        location / { }
        location /proxy/ { proxy_pass http://peer/; }
        location /cache/ {
            proxy_pass http://peer/;
            proxy_cache zone;
            proxy_cache_valid 200 1h;
        }
"""

BROWSER = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding: gzip, deflate, br",
    "Referer: http://bench.test/some/other/page.html?from=here&id=12345",
    "Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; visits=1.1.123456789.1700000000; "
    "choices=eyJsYW5nIjoiZW4iLCJ0eiI6IlVUQyJ9",
    "Upgrade-Insecure-Requests: 1",
    "Cache-Control: max-age=0",
    "X-Forwarded-For: 203.0.113.7, 198.51.100.23",
)
PACKED = ("Accept-Encoding: gzip",)
ONCE = ("Connection: close",)

# Scripts of wrk. `load.Wrk` puts TAG before and the figures behind.
MANY_FILES = """
local requests = {}
init = function()
  math.randomseed(1)
  for i = 0, 9999 do requests[i] = wrk.format("GET", string.format("/many/%05d.bin", i)) end
end
request = function() return requests[math.random(0, 9999)] end
"""
UNIQUE = """
local count = 0
request = function() count = count + 1; return wrk.format("GET", "/unique/" .. TAG .. "-" .. count) end
"""
UPLOAD = """
wrk.method = "POST"
wrk.body = string.rep("0123456789abcdef", 655360)
wrk.headers["Content-Type"] = "application/octet-stream"
"""
SOME_OF_ALL = """
local count, requests = 0, {}
init = function()
  math.randomseed(1)
  local packed = { ["Accept-Encoding"] = "gzip", ["Host"] = "bench.test" }
  for i = 1, 60 do requests[i] = wrk.format("GET", "/1k.html") end
  for i = 61, 75 do requests[i] = wrk.format("GET", "/proxy/1k.bin") end
  for i = 76, 85 do requests[i] = wrk.format("GET", "/cache/1k.bin") end
  for i = 86, 90 do requests[i] = wrk.format("GET", "/20k.html", packed) end
  for i = 91, 95 do requests[i] = wrk.format("GET", "/100k.bin") end
end
request = function()
  local which = math.random(1, 100)
  if which <= 95 then return requests[which] end
  count = count + 1
  return wrk.format("GET", "/cache/unique/" .. TAG .. "-" .. count)
end
"""

SCENARIOS = (
    Scenario("static-1k", 0.62, "a file of 1 KB over kept connections"),
    Scenario("static-1k-browser", 0.62, "the same with the fields a browser sends", Wrk(headers=BROWSER)),
    Scenario(
        "static-many", 0.62, "10,000 files of 4 KB at random, of a server that knows them",
        Wrk("/many/00042.bin", script=MANY_FILES), warm=6.0,
    ),
    Scenario(
        "static-304",
        0.85,
        "the same file, not modified",
        Wrk(headers=("If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",)),
    ),
    Scenario("return-200", 0.85, "an answer from the configuration", server='location / { return 200 "ok"; }'),
    Scenario("static-1k-close", 0.95, "a connection for each request", Wrk(connections=32, headers=ONCE)),
    Scenario("static-100k", 0.70, "a file of 100 KB", Wrk("/100k.bin", 32)),
    Scenario("static-10m", 1.00, "a file of 10 MB", Wrk("/10m.bin", 4)),
    Scenario("access-log-cost", 0.75, "static-1k with an unbuffered log", log="logs/access.log main"),
    Scenario("gzip-20k-html", 0.85, "a page of 20 KB, compressed at level 2", Wrk("/20k.html", 32, PACKED), http=GZIP),
    Scenario("gzip-200k-js", 0.85, "a script of 200 KB, compressed at level 2", Wrk("/200k.js", 16, PACKED), http=GZIP),
    Scenario("gzip-static", 0.65, "a page that is there compressed", Wrk("/packed.html", headers=PACKED), http="gzip_static on;"),
    Scenario(
        "proxy-1k-keepalive", 0.78, "1 KB from an upstream whose connections are kept", Wrk("/1k.bin"), http=KEPT,
        server=PASS, upstream="nginx",
    ),
    Scenario(
        "proxy-1k-nokeepalive", 0.95, "the same, with a new connection to it each time", Wrk("/1k.bin", 32), http=CLOSED,
        server=PASS, upstream="nginx",
    ),
    Scenario(
        "fastcgi-1k", 1.00, "1 KB from a FastCGI application whose connections are kept", Wrk("/index.php?page=1"),
        http="upstream application { server 127.0.0.1:@UPSTREAM@; keepalive 128; }", server=FASTCGI, upstream="application",
    ),
    Scenario("proxy-100k", 0.40, "100 KB from an upstream", Wrk("/100k.bin", 32), http=KEPT, server=PASS, upstream="nginx"),
    Scenario("proxy-1m-buffered", 0.40, "1 MB from an upstream", Wrk("/1m.bin", 8), http=KEPT, server=PASS, upstream="nginx"),
    Scenario(
        "proxy-stream-unbuffered", 0.40, "256 KB from an upstream, proxy_buffering off", Wrk("/256k.bin", 16),
        http=KEPT + "proxy_buffering off;", server=PASS, upstream="nginx",
    ),
    Scenario(
        "cache-hit-1k", 0.52, "1 KB from the cache", Wrk("/1k.bin"), http=KEPT, server=CACHE, upstream="nginx", cached="HIT"
    ),
    Scenario(
        "cache-hit-100k", 0.50, "100 KB from the cache", Wrk("/100k.bin", 32), http=KEPT, server=CACHE, upstream="nginx",
        cached="HIT",
    ),
    Scenario(
        "cache-hit-10m", 1.00, "10 MB from the cache", Wrk("/10m.bin", 4), http=KEPT, server=CACHE, upstream="nginx",
        cached="HIT",
    ),
    Scenario(
        "cache-miss-churn", 0.80, "4 KB that are fetched and kept, never asked again", Wrk("/unique/check", script=UNIQUE),
        http=KEPT, server=CACHE, upstream="nginx", cached="HIT",
    ),
    Scenario(
        "tls-handshake", 0.45, "a whole handshake for each request, TLS 1.3, ECDSA", Wrk(connections=16, headers=ONCE, tls=True),
        server="ssl_session_cache off; ssl_session_tickets off;" + TLS, listen="ssl",
    ),
    Scenario("tls-1k-keepalive", 0.80, "1 KB over TLS", Wrk(tls=True), server=SESSIONS + TLS, listen="ssl"),
    Scenario("tls-1m", 0.60, "1 MB over TLS", Wrk("/1m.bin", 8, tls=True), server=SESSIONS + TLS, listen="ssl"),
    Scenario("h2-1k", 0.80, "1 KB over HTTP/2 by TLS", H2load(tls=True), server=SESSIONS + TLS, listen="ssl http2"),
    Scenario(
        "h2-100k", 0.80, "100 KB over HTTP/2 by TLS", H2load("/100k.bin", 8, 8, tls=True), server=SESSIONS + TLS,
        listen="ssl http2",
    ),
    Scenario("h2c-1k", 0.60, "1 KB over HTTP/2 without TLS", H2load(), listen="http2"),
    Scenario(
        "ws-echo", 0.95, "64 bytes through a WebSocket, there and back", Messages(), http=WEBSOCKET_MAP, server=WEBSOCKET,
        upstream="echo",
    ),
    Scenario(
        "upload-10m", 0.40, "10 MB from a client to an upstream", Wrk("/upload", 4, script=UPLOAD), http=KEPT, server=PASS,
        upstream="sink", stretch=4.0,
    ),
    Scenario(
        "10k-idle", 1.00, "memory of 10,000 idle connections: of each, and in all", Steady(connections=10_000),
        kind=Kind.IDLE, figures=("memory", "connection_bytes"),
    ),
    Scenario(
        "tls-2k-idle", 1.00, "memory of 2,000 idle TLS connections: of each, and in all", Steady(connections=2_000, tls=True),
        kind=Kind.IDLE, figures=("memory", "connection_bytes"), server=SESSIONS + TLS, listen="ssl",
    ),
    Scenario("config-load", 0.80, "-t of 5,000 servers with four locations each", kind=Kind.CHECK),
    Scenario(
        "reload-under-load", 0, "questions without an answer while the configuration is read again twice a second",
        Steady(), kind=Kind.RELOAD, rule=Rule.COUNT, figures=("failures",),
    ),
    Scenario(
        "p99", 1.00, "p99 of static-1k at half of the peer's maximal rate, each server alone", kind=Kind.LATENCY,
        figures=("p99_us",),
    ),
    Scenario(
        "two-workers", 1.90, "what two workers can serve over what one can", Wrk(connections=128, threads=2), kind=Kind.WORKERS,
        rule=Rule.LEAST, figures=("scaling",),
    ),
    Scenario(
        "mixed", 1.10, "files, proxy, cache, gzip and TLS together: memory and p99 of the last minutes over the first",
        Wrk(script=SOME_OF_ALL), kind=Kind.MIXED, rule=Rule.FLAT, figures=("memory", "p99_us"), http=GZIP + KEPT,
        server=MIXED, upstream="nginx",
    ),
)

# How the floor (`floor.rs`) answers in the servers' place, and with which file, where it can do the same: what is left of the
# scenario when only the kernel's part is done.
FLOORS = {
    "static-1k": ("answer", "1k.html"),
    "static-1k-browser": ("answer", "1k.html"),
    "static-many": ("answer", "many"),
    "static-304": ("answer", "empty"),
    "return-200": ("answer", "ok"),
    "static-1k-close": ("once", "1k.html"),
    "static-100k": ("file", "100k.bin"),
    "static-10m": ("file", "10m.bin"),
    "access-log-cost": ("answer", "1k.html"),
    "gzip-static": ("file", "packed.html.gz"),
    "proxy-1k-keepalive": ("pass", None),
    "proxy-100k": ("pass", None),
    "proxy-1m-buffered": ("splice", None),
    "proxy-stream-unbuffered": ("splice", None),
    "cache-hit-1k": ("answer", "1k.html"),
    "cache-hit-100k": ("file", "100k.bin"),
    "cache-hit-10m": ("file", "10m.bin"),
}
