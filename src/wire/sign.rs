//! Signatures as Standard Webhooks 1.0.0 has them: the secret of an endpoint as text, and the header made with it.

use crate::limits;
use crate::model::{Invalid, Secret};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What every secret begins with, so that it is known for one wherever it turns up.
const PREFIX: &str = "whsec_";

/// Reads a secret: `whsec_` and 24 to 64 bytes in base64.
///
/// # Errors
/// It is anything else. The text itself is not repeated: it may be a slip of the key, and errors are logged.
pub fn parse_secret(text: &str) -> Result<Secret, Invalid> {
    let (least, most) = (limits::WEBHOOK_SECRET_MIN, limits::WEBHOOK_SECRET_MAX);
    let form = format!("a secret is {PREFIX} and the base64 of {least} to {most} random bytes");
    let coded = text.strip_prefix(PREFIX).ok_or_else(|| Invalid(format!("{form}; this one begins otherwise")))?;
    let bytes = STANDARD.decode(coded).map_err(|_| Invalid(format!("{form}; this one is no base64")))?;
    if !(least..=most).contains(&bytes.len()) {
        return Err(Invalid(format!("{form}; this one has {}", bytes.len())));
    }
    Ok(Secret::new(&bytes))
}

/// A secret as its receiver is told it.
pub fn secret_text(secret: &Secret) -> String {
    format!("{PREFIX}{}", STANDARD.encode(secret.bytes()))
}

/// The value of `webhook-signature`: scheme and base64 of the HMAC-SHA256 of `ID.TIMESTAMP.BODY`.
pub fn signature(secret: &Secret, id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the specification and its libraries publish.
    const PUBLISHED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_published_example_is_signed_as_published() {
        let secret = parse_secret(PUBLISHED).unwrap();
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn another_id_time_body_or_key_is_another_signature() {
        let secret = parse_secret(PUBLISHED).unwrap();
        let other = Secret::new(&[7; 32]);
        let all = [
            signature(&secret, "ev_1", 1, b"{}"),
            signature(&secret, "ev_2", 1, b"{}"),
            signature(&secret, "ev_1", 2, b"{}"),
            signature(&secret, "ev_1", 1, b"{ }"),
            signature(&other, "ev_1", 1, b"{}"),
        ];
        for (place, signed) in all.iter().enumerate() {
            assert!(!all[..place].contains(signed), "{place}");
        }
    }

    #[test]
    fn a_secret_reads_back_as_it_was_written_and_is_not_shown_by_debug() {
        for length in [24, 32, 64] {
            let secret = Secret::new(&vec![0xA5; length]);
            assert_eq!(parse_secret(&secret_text(&secret)), Ok(secret.clone()));
            assert_eq!(format!("{secret:?}"), "Secret(…)");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_repeated() {
        let short = format!("{PREFIX}{}", STANDARD.encode([7; 23]));
        let long = format!("{PREFIX}{}", STANDARD.encode([7; 65]));
        for text in ["", "hunter2hunter2hunter2hunter2", "whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &short, &long] {
            let error = parse_secret(text).unwrap_err();
            assert!(text.is_empty() || !error.0.contains(text), "{error}");
            assert!(error.0.contains("24 to 64"), "{error}");
        }
        assert!(parse_secret("whsec_not base64 not base64 not base64").unwrap_err().0.contains("no base64"));
    }
}
