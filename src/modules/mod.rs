//! What a location can be told to do. One file a feature; this is the one list.

pub mod content; // who answers
pub mod filter; // what changes an answer on its way out
pub mod gate; // who is let through, and how fast
pub mod log;
pub mod pass; // who answers from behind us
pub mod rewrite; // what a request becomes first // access logs
pub mod ssl; // TLS towards clients

use crate::both::geo::Geo;
use crate::both::map::Map;
use crate::both::split_clients::SplitClients;
use crate::conf::module::Modules;
use crate::http::core::Core;
use crate::http::h2::Http2;
use crate::http::open_file::OpenFiles;
use crate::http::plan::Plan;

/// The modules of the `http` block, in the order in which they link: gates and handlers of a phase are asked in the
/// order of this list.
pub fn http() -> Modules<Plan> {
    Modules::default()
        .with::<Core>()
        .with::<OpenFiles>()
        .with::<Http2>()
        .with::<ssl::Ssl>()
        .with::<Geo<Plan>>()
        .with::<Map<Plan>>()
        .with::<SplitClients<Plan>>()
        .with::<rewrite::referer::Referer>()
        .with::<rewrite::secure_link::SecureLink>()
        .with::<rewrite::rewrite::Rewrite>()
        .with::<gate::realip::RealIp>()
        .with::<gate::limit_req::LimitReq>()
        .with::<gate::limit_conn::LimitConn>()
        .with::<gate::access::Access>()
        .with::<gate::auth_basic::AuthBasic>()
        .with::<gate::auth_request::AuthRequest>()
        .with::<content::try_files::TryFiles>()
        .with::<content::mirror::Mirror>()
        .with::<content::random_index::RandomIndex>()
        .with::<content::index::Index>()
        .with::<content::autoindex::Autoindex>()
        .with::<pass::group::Upstream>()
        .with::<pass::settings::Pass<pass::proxy::Http>>()
        .with::<pass::cache::Cache<pass::proxy::Http>>()
        .with::<pass::tls::PassTls<pass::proxy::Http>>()
        .with::<pass::proxy::ProxyModule>()
        .with::<pass::settings::Pass<pass::fastcgi::Programs>>()
        .with::<pass::cache::Cache<pass::fastcgi::Programs>>()
        .with::<pass::fastcgi::FastCgiModule>()
        .with::<pass::settings::Pass<pass::uwsgi::Uwsgi>>()
        .with::<pass::cache::Cache<pass::uwsgi::Uwsgi>>()
        .with::<pass::tls::PassTls<pass::uwsgi::Uwsgi>>()
        .with::<pass::uwsgi::UwsgiModule>()
        .with::<pass::settings::Pass<pass::scgi::Scgi>>()
        .with::<pass::cache::Cache<pass::scgi::Scgi>>()
        .with::<pass::scgi::ScgiModule>()
        .with::<pass::settings::Pass<pass::memcached::Memory>>()
        .with::<pass::memcached::MemcachedModule>()
        .with::<content::empty_gif::EmptyGif>()
        .with::<content::stub_status::StubStatus>()
        .with::<content::gzip_static::GzipStatic>()
        .with::<content::static_file::Static>()
        .with::<filter::slice::Slice>()
        .with::<filter::not_modified::NotModified>()
        .with::<filter::headers::Headers>()
        .with::<filter::gunzip::Gunzip>()
        .with::<filter::addition::Addition>()
        .with::<filter::sub::Sub>()
        .with::<filter::charset::Charset>()
        .with::<filter::ssi::Ssi>()
        .with::<filter::gzip::Gzip>()
        .with::<filter::range::RangeFilter>()
        .with::<log::Log>()
}
