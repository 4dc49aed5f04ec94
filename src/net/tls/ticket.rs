//! Sessions that are taken up again: tickets, which the client keeps, and a store, which the server keeps.
//!
//! In: keys of files or of our own, and who offers the session. Out: what rustls asks for. The rule: a session is
//! bound to the server that made it (its certificates and what it asks of clients), so that none is taken up at another.
//! Keys of our own and stores belong to the process, so they survive a reload.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use moka::sync::Cache;
use rustls::server::{ProducesTickets, StoresServerSessions};

use crate::base::clock;

/// Who offers a session: a digest of what must not differ where it is taken up.
pub type Context = [u8; 32];

/// The digest of some parts.
pub fn context<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Context {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_le_bytes());
        all.extend_from_slice(part);
    }
    hash(&all)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

const NAME: usize = 16;

/// One key that tickets are sealed with.
pub struct Key {
    name: [u8; NAME],
    key: LessSafeKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    fn new(name: [u8; NAME], secret: &[u8; 32]) -> Option<Self> {
        Some(Self { name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret).ok()?) })
    }

    /// The key in a `ssl_session_ticket_key` file; `None` if it is not 48 or 80 bytes.
    pub fn of_file(bytes: &[u8]) -> Option<Self> {
        if !matches!(bytes.len(), 48 | 80) {
            return None;
        }
        let (name, secret) = bytes.split_first_chunk()?;
        Self::new(*name, &hash(secret))
    }

    fn random() -> Option<Self> {
        let mut bytes = [0; NAME + 32];
        rand::fill(&mut bytes).ok()?;
        let (name, secret) = bytes.split_first_chunk()?;
        Self::new(*name, secret.try_into().ok()?)
    }

    fn seal(&self, context: &Context, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = [&clock::seconds().to_le_bytes(), plain].concat();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce_of, self.aad(context), &mut sealed).ok()?;
        Some([&self.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, context: &Context, nonce: [u8; NONCE_LEN], sealed: &[u8], timeout: Duration) -> Option<Vec<u8>> {
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plain = self.key.open_in_place(nonce, self.aad(context), &mut sealed).ok()?;
        let (made, plain) = plain.split_first_chunk()?;
        let age = clock::seconds().saturating_sub(u64::from_le_bytes(*made));
        (age <= timeout.as_secs()).then(|| plain.to_vec())
    }

    fn aad(&self, context: &Context) -> Aad<[u8; NAME + 32]> {
        let mut all = [0; NAME + 32];
        all[..NAME].copy_from_slice(&self.name);
        all[NAME..].copy_from_slice(context);
        Aad::from(all)
    }
}

/// Keys of our own: the one in use and the one before. A key is used for as long as sessions live, and opens for as
/// long again.
#[derive(Default)]
struct Own {
    keys: Vec<Arc<Key>>,
    since: u64,
}

/// By how long sessions live.
static OWN: LazyLock<RwLock<HashMap<Duration, Own>>> = LazyLock::new(RwLock::default);

fn own_keys(timeout: Duration) -> Vec<Arc<Key>> {
    let now = clock::seconds();
    let is_fresh = |own: &&Own| !own.keys.is_empty() && now.saturating_sub(own.since) < timeout.as_secs().max(1);
    {
        let all = OWN.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get(&timeout).filter(is_fresh) {
            return own.keys.clone();
        }
    }
    let mut all = OWN.write().unwrap_or_else(PoisonError::into_inner);
    let own = all.entry(timeout).or_default();
    if !is_fresh(&&*own)
        && let Some(key) = Key::random()
    {
        own.keys.insert(0, Arc::new(key));
        own.keys.truncate(2);
        own.since = now;
    }
    own.keys.clone()
}

/// Tickets of one server.
#[derive(Debug)]
pub struct Tickets {
    pub on: bool,
    pub context: Context,
    pub timeout: Duration,
    /// Of files; the first seals, all open. Empty: keys of our own.
    pub keys: Vec<Arc<Key>>,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.on
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match self.keys.first() {
            Some(key) => key.seal(&self.context, plain),
            None => own_keys(self.timeout).first()?.seal(&self.context, plain),
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let open = |keys: &[Arc<Key>]| {
            let key = keys.iter().find(|key| key.name == *name)?;
            key.open(&self.context, *nonce, sealed, self.timeout)
        };
        if self.keys.is_empty() { open(&own_keys(self.timeout)) } else { open(&self.keys) }
    }
}

/// What is kept of sessions under one name: `shared:NAME:SIZE`.
pub struct Store {
    size: u64,
    sessions: Cache<Vec<u8>, (u64, Vec<u8>)>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// What a session costs beside its bytes.
const OVERHEAD: usize = 200;

static STORES: LazyLock<Mutex<HashMap<String, Arc<Store>>>> = LazyLock::new(Mutex::default);

impl Store {
    /// At most so many bytes.
    pub fn new(size: u64) -> Self {
        let weigh = |key: &Vec<u8>, (_, value): &(u64, Vec<u8>)| {
            u32::try_from(key.len() + value.len() + OVERHEAD).unwrap_or(u32::MAX)
        };
        Self { size, sessions: Cache::builder().max_capacity(size).weigher(weigh).build() }
    }

    /// The store of this name, as long as its size stays the same.
    pub fn named(name: &str, size: u64) -> Arc<Self> {
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        match stores.get(name) {
            Some(store) if store.size == size => store.clone(),
            _ => {
                let store = Arc::new(Self::new(size));
                stores.insert(name.to_owned(), store.clone());
                store
            }
        }
    }
}

/// One server's part of a store.
#[derive(Debug)]
pub struct Sessions {
    pub store: Arc<Store>,
    pub context: Context,
    pub timeout: Duration,
}

impl Sessions {
    fn key(&self, id: &[u8]) -> Vec<u8> {
        [&self.context[..], id].concat()
    }

    fn fresh(&self, (made, value): (u64, Vec<u8>)) -> Option<Vec<u8>> {
        (clock::seconds().saturating_sub(made) <= self.timeout.as_secs()).then_some(value)
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        self.store.sessions.insert(self.key(&id), (clock::seconds(), value));
        true
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.store.sessions.get(&self.key(id))?)
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.store.sessions.remove(&self.key(id))?)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(name: &[u8], keys: Vec<Arc<Key>>) -> Tickets {
        Tickets { on: true, context: context([name]), timeout: Duration::from_secs(300), keys }
    }

    #[test]
    fn a_ticket_opens_where_it_was_made_and_nowhere_else() {
        let (a, b) = (tickets(b"a", Vec::new()), tickets(b"b", Vec::new()));
        let mut ticket = a.encrypt(b"state").expect("there is a key");
        assert_eq!(a.decrypt(&ticket), Some(b"state".to_vec()));
        assert_eq!(b.decrypt(&ticket), None);
        for n in [0, NAME, NAME + NONCE_LEN, ticket.len() - 1] {
            ticket[n] ^= 1;
            assert_eq!(a.decrypt(&ticket), None, "byte {n} was changed");
            ticket[n] ^= 1;
        }
        assert_eq!(a.decrypt(&ticket[..20]), None);
    }

    #[test]
    fn keys_of_files_rotate() {
        let key = |byte: u8, len: usize| Key::of_file(&vec![byte; len]).map(Arc::new);
        let (old, new) = (key(1, 48).expect("48 bytes"), key(2, 80).expect("80 bytes"));
        assert!(key(1, 49).is_none());
        let before = tickets(b"a", vec![old.clone()]);
        let after = tickets(b"a", vec![new, old]);
        let ticket = before.encrypt(b"state").expect("there is a key");
        assert_eq!(after.decrypt(&ticket), Some(b"state".to_vec()));
        let ticket = after.encrypt(b"state").expect("there is a key");
        assert_eq!(before.decrypt(&ticket), None);
    }

    #[test]
    fn stores_keep_servers_apart() {
        let sessions = |name: &[u8]| Sessions {
            store: Store::named("test-sessions", 1 << 20),
            context: context([name]),
            timeout: Duration::from_secs(300),
        };
        let (a, b) = (sessions(b"a"), sessions(b"b"));
        assert!(a.put(vec![1], vec![2]));
        assert_eq!((a.get(&[1]), b.get(&[1])), (Some(vec![2]), None));
        assert_eq!((a.take(&[1]), a.take(&[1])), (Some(vec![2]), None));
    }
}
