//! Pages of long lists.

use omma_common::error::ApiError;

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Begins every page token, so that other texts are told apart.
const TOKEN_PREFIX: &str = "c1.";

/// Entries of a page.
pub(crate) fn size(asked: i32) -> Result<usize, ApiError> {
    match asked {
        0 => Ok(DEFAULT_PAGE),
        n => usize::try_from(n)
            .map(|n| n.min(MAX_PAGE))
            .map_err(|_| ApiError::field("page_size", "must not be negative")),
    }
}

/// A page token says after which name to go on; hexadecimal, so that nobody takes it for a name.
pub(crate) fn write_token(last: &str) -> String {
    last.bytes().fold(TOKEN_PREFIX.to_owned(), |token, byte| format!("{token}{byte:02x}"))
}

/// After which name to go on; empty for the first page. `list` names the call that made the token.
pub(crate) fn read_token(list: &str, token: &str) -> Result<String, ApiError> {
    if token.is_empty() {
        return Ok(String::new());
    }
    let bytes = token.strip_prefix(TOKEN_PREFIX).map(str::as_bytes).unwrap_or_default().as_chunks::<2>();
    let digit = |byte: u8| (byte as char).to_digit(16).map(|d| d as u8);
    let digits = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let name = bytes.0.iter().map(digits).collect::<Option<Vec<u8>>>().and_then(|b| String::from_utf8(b).ok());
    name.filter(|name| !name.is_empty() && bytes.1.is_empty())
        .ok_or_else(|| ApiError::field("page_token", format!("is not one that {list} returned")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn page_tokens_round_trip(name in "[a-z0-9][a-z0-9_-]{0,63}") {
            let token = write_token(&name);
            prop_assert_eq!(read_token("L", &token).unwrap(), name);
        }

        #[test]
        fn odd_tokens_are_refused_without_a_panic(token in "\\PC{0,20}") {
            if let Ok(name) = read_token("L", &token) {
                prop_assert!(token.is_empty() || write_token(&name).eq_ignore_ascii_case(&token));
            }
        }
    }

    #[test]
    fn tokens_that_are_none() {
        for bad in ["x", "c1.", "c1.6", "c1.zz", "c1.ff", "c2.61", "c1.+1"] {
            assert!(read_token("L", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!((size(0).unwrap(), size(7).unwrap(), size(5000).unwrap()), (100, 7, 1000));
        assert!(size(-1).is_err());
    }
}
