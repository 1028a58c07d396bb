//! Which URLs and addresses a webhook may go to. Loopback is the usual target of a local tool and always allowed; what
//! lies in a private network only where that was said, since a URL may come from somebody who should not reach it.
//!
//! The address judged is the one that is then connected to: a name that resolves to another one for the connection
//! (DNS rebinding) gains nothing.

use crate::limits;
use crate::model::Invalid;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use ureq::http::Uri;

/// What an address is to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// This machine.
    Loopback,
    /// The Internet.
    Public,
    /// A network that the Internet does not reach, or that is for something else; named for people.
    Private(&'static str),
    /// No address that a server could listen on.
    Impossible(&'static str),
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [127, ..] => Kind::Loopback,
        [0, ..] => Kind::Impossible("unspecified"),
        [224..=239, ..] => Kind::Impossible("a multicast address"),
        [240..=255, ..] => Kind::Impossible("a reserved or broadcast address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Kind::Private("private"),
        [169, 254, ..] => Kind::Private("link-local"),
        [100, 64..=127, ..] => Kind::Private("behind a carrier's NAT"),
        [192, 0, 0 | 2, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Kind::Private("for tests and examples")
        }
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    let octets = address.octets();
    let embedded = |at: usize| {
        let bytes: [u8; 4] = octets[at..at + 4].try_into().expect("four bytes are four bytes");
        kind_v4(bytes.into())
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        // The kernel, or a translator on the way, takes these for the IPv4 address inside.
        [0, 0, 0, 0, 0, 0xFFFF, ..] => embedded(12),
        [0, 0, 0, 0, 0, 0, ..] => Kind::Impossible("unspecified or obsolete"),
        [0x64, 0xFF9B, 0, 0, 0, 0, ..] => as_far(embedded(12)),
        [0x64, 0xFF9B, 1, ..] => Kind::Private("behind a translator"),
        [0x2002, ..] => as_far(embedded(2)),
        [0x2001, 0, ..] | [0x2001, 0x0DB8, ..] | [0x3FFF, 0..=0x0FFF, ..] | [0x0100, 0, 0, 0, ..] => {
            Kind::Private("for tunnels, tests and examples")
        }
        [0xFC00..=0xFDFF, ..] => Kind::Private("private (unique local)"),
        [0xFE80..=0xFEBF, ..] => Kind::Private("link-local"),
        [0xFEC0..=0xFEFF, ..] => Kind::Private("private (site local)"),
        [0xFF00..=0xFFFF, ..] => Kind::Impossible("a multicast address"),
        _ => Kind::Public,
    }
}

/// The kind of an address that somebody else translates: their loopback is not ours.
fn as_far(kind: Kind) -> Kind {
    if kind == Kind::Loopback { Kind::Private("behind a translator") } else { kind }
}

/// Why a webhook may not go to this address, if it may not. `is_secure` says that it goes through TLS.
pub fn refusal(address: IpAddr, is_secure: bool, allow_private: bool) -> Option<String> {
    match kind(address) {
        Kind::Loopback => None,
        Kind::Impossible(what) => Some(format!("{address} is {what}: no webhook can be there")),
        Kind::Private(_) if allow_private => None,
        Kind::Private(what) => {
            Some(format!("{address} is {what}: to send there, add the webhook with --allow-private"))
        }
        Kind::Public if is_secure => None,
        Kind::Public => Some(format!("{address} is in the Internet, where everybody on the way could read: use https")),
    }
}

/// Checks a URL as far as that can be done without looking a name up.
///
/// # Errors
/// No webhook can be sent there; the text says why.
pub fn check_url(url: &str, allow_private: bool) -> Result<(), Invalid> {
    if url.len() > limits::WEBHOOK_URL_MAX {
        let (found, most) = (url.len(), limits::WEBHOOK_URL_MAX);
        return Err(Invalid(format!("the URL is {found} bytes long; at most {most} are allowed")));
    }
    let uri: Uri = url.parse().map_err(|error| Invalid(format!("{url:?} is no URL: {error}")))?;
    let is_secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") if cfg!(feature = "tls") => true,
        Some("https") => return Err(Invalid("this flockd was built without TLS: it sends to http only".into())),
        _ => return Err(Invalid(format!("{url:?} begins neither with http:// nor with https://"))),
    };
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return Err(Invalid(format!("{url:?} names no host")));
    };
    if authority.as_str().contains('@') {
        let text = "a webhook's URL has no user and password: whoever gets it checks the signature instead";
        return Err(Invalid(text.into()));
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let refused = host.parse().ok().and_then(|address| refusal(address, is_secure, allow_private));
    refused.map_or(Ok(()), |text| Err(Invalid(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(address: &str, is_secure: bool, allow_private: bool) -> bool {
        refusal(address.parse().unwrap(), is_secure, allow_private).is_none()
    }

    #[test]
    fn loopback_is_always_allowed() {
        for address in ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"] {
            assert!(is_allowed(address, false, false), "{address}");
        }
    }

    #[test]
    fn private_addresses_are_allowed_only_where_that_was_said() {
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.0.1",
            "198.18.0.1",
            "192.0.2.1",
            "fd00::1",
            "fc00::1",
            "fe80::1",
            "fec0::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "2002:7f00:1::1",
            "2002:a00:1::1",
            "2001:db8::1",
        ];
        for address in private {
            assert!(!is_allowed(address, true, false), "{address}");
            assert!(is_allowed(address, false, true), "{address}");
        }
        let text = refusal("169.254.169.254".parse().unwrap(), true, false).unwrap();
        assert!(text.contains("link-local") && text.contains("--allow-private"), "{text}");
    }

    #[test]
    fn public_addresses_are_reached_through_tls_only() {
        for address in ["93.184.216.34", "172.15.0.1", "172.32.0.1", "100.63.0.1", "2606:2800::1", "2002:5db8:d822::1"]
        {
            assert!(is_allowed(address, true, false), "{address}");
            assert!(!is_allowed(address, false, true), "{address}");
        }
    }

    #[test]
    fn nobody_listens_on_multicast_broadcast_and_unspecified_addresses() {
        for address in ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::7", "ff02::1"] {
            assert!(!is_allowed(address, true, true), "{address}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_sent_to_is_refused_by_name() {
        for good in ["http://127.0.0.1:8080/hook?a=1", "http://localhost/", "http://[::1]:80", "http://hooks.lan/x"] {
            assert_eq!(check_url(good, false), Ok(()), "{good}");
        }
        let long = format!("http://localhost/{}", "x".repeat(limits::WEBHOOK_URL_MAX));
        let bad = [
            ("ftp://localhost/", "neither"),
            ("localhost:80", "neither"),
            ("/hook", "neither"),
            ("http://", "no URL"),
            ("http://a b/", "no URL"),
            ("http://ada:secret@localhost/", "user and password"),
            ("http://10.0.0.1/", "--allow-private"),
            ("http://[fe80::1]/", "link-local"),
            ("http://0.0.0.0:80/", "unspecified"),
            ("http://93.184.216.34/", "use https"),
            (&long, "bytes long"),
        ];
        for (url, why) in bad {
            let error = check_url(url, false).unwrap_err();
            assert!(error.0.contains(why), "{url}: {error}");
        }
        assert_eq!(check_url("http://10.0.0.1/", true), Ok(()));
    }
}
