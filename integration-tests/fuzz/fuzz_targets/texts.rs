//! Texts that people and clients write: filters, session tokens.

#![no_main]

use omma_common::session::Session;
use omma_proto::v1::SessionToken;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(session) = Session::from_tokens(&[SessionToken { value: bytes.to_vec() }]) {
        let again = Session::from_tokens(&[session.to_token()]);
        assert_eq!(again.as_ref(), Ok(&session));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = omma_client::filter::parse(text);
    }
});
