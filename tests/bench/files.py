"""What is served: files whose bytes are the same in every run, and a certificate.

Random bytes where a body shall not compress, text like a page or a script where it shall.
"""

import gzip
import random
import shutil
import subprocess
from pathlib import Path

from servers import Fault, put

SIZES = {"1k": 1 << 10, "4k": 4 << 10, "100k": 100 << 10, "256k": 256 << 10, "1m": 1 << 20, "10m": 10 << 20}

SYLLABLES = "an be co da el fi go hu in ju ke lo mi no or pa qu ra se to un vi wo ex ya zo tion ment able ing".split()


def fill(root: Path) -> None:
    """Makes the document root, all but the many files."""
    chance = random.Random(1)
    for name, size in SIZES.items():
        put(root / f"{name}.bin", chance.randbytes(size))
    put(root / "empty", b"")
    put(root / "ok", b"ok")
    put(root / "1k.html", page(chance, 1 << 10))
    put(root / "20k.html", page(chance, 20 << 10))
    put(root / "200k.js", script(chance, 200 << 10))
    packed = page(chance, 20 << 10)
    put(root / "packed.html", packed)
    put(root / "packed.html.gz", gzip.compress(packed, 9, mtime=0))


def fill_many(root: Path) -> None:
    """10,000 files of 4 KB, once."""
    if (root / "many").exists():
        return
    chance = random.Random(2)
    for number in range(10_000):
        put(root / f"many/{number:05d}.bin", chance.randbytes(4096))


def words(chance: random.Random, vocabulary: list[str], count: int) -> str:
    """Words of which some are frequent and most are rare, as in a language."""
    last = len(vocabulary) - 1
    return " ".join(vocabulary[min(last, int(chance.expovariate(12 / len(vocabulary))))] for _ in range(count))


def vocabulary(chance: random.Random) -> list[str]:
    return ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(3000)]


def page(chance: random.Random, size: int) -> bytes:
    known = vocabulary(chance)
    text = '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>A page</title></head>\n<body>\n'
    while len(text) < size:
        link = f'<a href="/{words(chance, known, 1)}/{chance.randint(1, 9999)}">{words(chance, known, 3)}</a>'
        text += f"<h2>{link}</h2>\n<p class=\"text\">{words(chance, known, chance.randint(10, 60))}.</p>\n"
    return text.encode()[:size]


def script(chance: random.Random, size: int) -> bytes:
    known = vocabulary(chance)
    text = ""
    while len(text) < size:
        name, first, second = words(chance, known, 3).split()
        text += (
            f"function {name}({first}, {second}) {{ if ({first} === {chance.randint(0, 999)}) {{ return {second}.{name}; }} "
            f'this.{first} = {second} || "{words(chance, known, 2)}"; }}\n'
        )
    return text.encode()[:size]


def certificate(place: Path) -> tuple[Path, Path]:
    """A certificate of ECDSA on P-256 and its key, made once."""
    chain, key = place / "certificate.pem", place / "key.pem"
    if chain.exists():
        return chain, key
    if not shutil.which("openssl"):
        raise Fault("openssl is not installed; run tests/setup")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench.test"
    made = subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:bench.test", "-keyout", str(key), "-out", str(chain)],
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise Fault(f"openssl: {made.stderr[-400:]}")
    return chain, key


def many_servers(root: Path, user: str) -> str:
    """A configuration of 5,000 servers with four locations each."""
    blocks = [
        f"""
    server {{
        listen 127.0.0.1:8080;
        server_name s{number}.example.com www.s{number}.example.com;
        root {root};
        set $site s{number};
        location / {{ try_files $uri $uri/ =404; }}
        location = /health{number % 10} {{ return 200 "ok"; }}
        location /api/ {{ proxy_pass http://peer; proxy_set_header Host $host; proxy_read_timeout 30s; }}
        location ~* \\.(jpg|png|css|js{number % 50})$ {{ expires 30d; add_header Cache-Control public; }}
    }}"""
        for number in range(5000)
    ]
    return f"""
{user}
worker_processes 1;
pid logs/pid;
error_log logs/error.log error;
events {{ worker_connections 1024; }}
http {{
    types {{ text/html html; }}
    access_log off;
    server_names_hash_max_size 65536;
    server_names_hash_bucket_size 128;
    client_body_temp_path temp/body; proxy_temp_path temp/proxy; fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi; scgi_temp_path temp/scgi;
    upstream peer {{ server 127.0.0.1:9000; keepalive 8; }}
{"".join(blocks)}
}}
"""
