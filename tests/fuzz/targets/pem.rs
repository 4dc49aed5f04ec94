//! A file of certificates or of a key is read or refused; what is written of its sections is read again.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use weir::net::tls::certificate::{Named, certificates, key, revocations};
use weir::wire::pem::{encode, sections};

fuzz_target!(|bytes: &[u8]| {
    let named = Named { name: "file", path: Path::new("file") };
    let read = |_: &Path| Ok(bytes.into());
    let _ = certificates(&named, &read);
    let _ = revocations(&named, &read);
    let Ok(found) = sections(bytes) else { return };
    // The count of rounds that a guarded key of PKCS #8 asks for is the operator's own doing.
    let passwords = match found.iter().any(|section| section.label.starts_with("ENCRYPTED")) {
        true => Vec::new(),
        false => vec![b"wrong".to_vec(), b"secret".to_vec()],
    };
    let _ = key(&named, &read, &passwords);
    for section in found {
        let text = encode(&section.label, &section.data);
        let again = sections(text.as_bytes()).expect("ours");
        assert_eq!((&again[0].label, &again[0].data), (&section.label, &section.data));
    }
});
