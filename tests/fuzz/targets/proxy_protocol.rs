//! A PROXY header, cut anywhere, is not whole or the same; its TLVs are found or broken.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::proxy_protocol::{Tlv, read};

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = read(bytes);
    if let Ok(Some(header)) = read(&bytes[..usize::from(cut).min(bytes.len())]) {
        assert_eq!(whole.as_ref(), Ok(&Some(header)));
    }
    let Ok(Some(header)) = whole else { return };
    assert!(header.end as usize <= bytes.len());
    let Some(proxied) = header.proxied else { return };
    for tlv in [Tlv::Type(1), Tlv::Type(0x20), Tlv::Ssl(0x22), Tlv::SslVerify] {
        let _ = tlv.find(&proxied.tlvs);
    }
});
