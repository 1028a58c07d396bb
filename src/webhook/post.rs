//! One attempt to deliver: a signed POST over HTTP, judged by its status. Bounded in time and in what is read.

use super::address;
use crate::limits;
use crate::model::{PostResult, Secret, Wall};
use crate::wire::sign;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::header::RETRY_AFTER;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body, Error};

/// What is to be delivered, the same at each attempt.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where to.
    pub url: Arc<str>,
    /// Whether that may be a private address.
    pub allow_private: bool,
    /// What it is signed with.
    pub secret: Secret,
    /// The message's own id, by which its receiver knows a repetition.
    pub id: String,
    /// JSON.
    pub body: Arc<[u8]>,
}

/// Sends posts, from many threads at once.
pub struct Poster {
    /// To what everybody may send to.
    strict: Agent,
    /// To private addresses as well. Apart, so that no connection made for the one is used for the other.
    lenient: Agent,
    /// Why nothing can be sent through TLS, if it cannot.
    no_tls: Option<String>,
}

impl Poster {
    /// Reads the certificates that servers are judged by, if `$SSL_CERT_FILE` says which; connects to nobody yet.
    pub fn new() -> Poster {
        let (roots, no_tls) = match tls::roots() {
            Ok(roots) => (roots, None),
            Err(why) => (Default::default(), Some(why)),
        };
        Poster { strict: agent(false, roots.clone()), lenient: agent(true, roots), no_tls }
    }

    /// Tries once, for at most [`limits::WEBHOOK_WITHIN`]. `now` is the time of the attempt.
    pub fn post(&self, post: &Post, now: Wall) -> PostResult {
        if let Some(why) = self.no_tls.as_ref().filter(|_| post.url.starts_with("https:")) {
            return PostResult::Failed { why: why.as_str().into(), retry_after: None };
        }
        let agent = if post.allow_private { &self.lenient } else { &self.strict };
        let timestamp = now.0 / limits::SECOND;
        let sent = agent
            .post(&*post.url)
            .header("content-type", "application/json")
            .header("webhook-id", &post.id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", sign::signature(&post.secret, &post.id, timestamp, &post.body))
            .send(&*post.body);
        match sent {
            Ok(mut response) => {
                drain(response.body_mut());
                let status = response.status().as_u16();
                let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                judge(status, after.and_then(|text| retry_after(text, now)))
            }
            Err(error) => PostResult::Failed { why: sentence(&error).into(), retry_after: None },
        }
    }
}

impl Default for Poster {
    fn default() -> Self {
        Poster::new()
    }
}

/// What a status means: 2xx is a delivery, 410 a good-bye, and all else, redirects too, a failure.
fn judge(status: u16, retry_after: Option<u64>) -> PostResult {
    let why = match status {
        200..=299 => return PostResult::Delivered { status },
        410 => return PostResult::Gone,
        300..=399 => format!("it answered {status}, a redirect, which is not followed: add the new URL instead"),
        _ => format!("it answered {status}"),
    };
    PostResult::Failed { why: why.into(), retry_after }
}

/// Reads what is left of a short answer, so that its connection can be used again; a long one is cut off.
fn drain(body: &mut Body) {
    let _ = body.with_config().limit(limits::WEBHOOK_ANSWER_MAX).read_to_vec();
}

fn agent(allow_private: bool, roots: tls::Roots) -> Agent {
    let seconds = |ms: u64| Some(Duration::from_millis(ms));
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Not by way of $HTTP_PROXY: the address judged must be the one connected to.
        .proxy(None)
        .user_agent(concat!("flockd/", env!("CARGO_PKG_VERSION")))
        .timeout_global(seconds(limits::WEBHOOK_WITHIN))
        .timeout_resolve(seconds(limits::WEBHOOK_CONNECT_WITHIN))
        .timeout_connect(seconds(limits::WEBHOOK_CONNECT_WITHIN))
        .max_response_header_size(limits::WEBHOOK_ANSWER_MAX as usize);
    let config = tls::with_roots(config, roots);
    Agent::with_parts(
        config.build(),
        DefaultConnector::new(),
        Judge { allow_private, inner: DefaultResolver::default() },
    )
}

/// Resolves names and lets through only addresses that may be sent to.
#[derive(Debug)]
struct Judge {
    allow_private: bool,
    inner: DefaultResolver,
}

impl Resolver for Judge {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let is_secure = uri.scheme_str() == Some("https");
        let mut allowed = self.empty();
        let mut refused = None;
        for socket in found.iter() {
            match address::refusal(plain(socket.ip()), is_secure, self.allow_private) {
                None => allowed.push(*socket),
                Some(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) if allowed.is_empty() => Err(Error::Other(Box::new(Refused(why)))),
            _ => Ok(allowed),
        }
    }
}

/// An IPv4 address in the clothes of an IPv6 one, undressed.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Why there is no answer, bounded: it is kept with the webhook.
fn sentence(error: &Error) -> String {
    let text = match error {
        Error::Other(inner) => inner.to_string(),
        Error::Timeout(_) => "it did not answer in time".to_owned(),
        Error::HostNotFound => "its host is not known".to_owned(),
        Error::Io(error) => error.to_string(),
        error => error.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(limits::NOTE_MAX / 4).collect()
}

// ── Certificates ────────────────────────────────────────────────────────────────────────────────────────────────────

/// Who is believed to be who it says it is: those whom Mozilla trusts, or, as with other programs, the certificates in
/// the file that `$SSL_CERT_FILE` names.
#[cfg(feature = "tls")]
mod tls {
    use std::path::Path;
    use ureq::config::ConfigBuilder;
    use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
    use ureq::typestate::AgentScope;

    pub(super) type Roots = Option<RootCerts>;

    /// The roots to use instead of Mozilla's.
    pub(super) fn roots() -> Result<Roots, String> {
        let Some(file) = std::env::var_os("SSL_CERT_FILE").filter(|file| !file.is_empty()) else { return Ok(None) };
        let unfit = |why: String| format!("$SSL_CERT_FILE of the daemon, {}, {why}", Path::new(&file).display());
        let pem = std::fs::read(&file).map_err(|error| unfit(format!("cannot be read: {error}")))?;
        let mut found: Vec<Certificate<'static>> = Vec::new();
        for item in parse_pem(&pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => found.push(certificate),
                Ok(_) => {}
                Err(error) => return Err(unfit(format!("is no PEM file: {error}"))),
            }
        }
        if found.is_empty() {
            return Err(unfit("holds no certificate".to_owned()));
        }
        Ok(Some(RootCerts::from(found)))
    }

    pub(super) fn with_roots(config: ConfigBuilder<AgentScope>, roots: Roots) -> ConfigBuilder<AgentScope> {
        match roots {
            None => config,
            Some(roots) => config.tls_config(TlsConfig::builder().root_certs(roots).build()),
        }
    }
}

/// Without TLS nobody has to be believed; a URL with https is refused when it is added.
#[cfg(not(feature = "tls"))]
mod tls {
    use ureq::config::ConfigBuilder;
    use ureq::typestate::AgentScope;

    #[derive(Clone, Default)]
    pub(super) struct Roots;

    pub(super) fn roots() -> Result<Roots, String> {
        Ok(Roots)
    }

    pub(super) fn with_roots(config: ConfigBuilder<AgentScope>, _: Roots) -> ConfigBuilder<AgentScope> {
        config
    }
}

// ── Retry-After ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// Milliseconds that a `Retry-After` asks for: seconds, or a date in the one form that is still written.
fn retry_after(text: &str, now: Wall) -> Option<u64> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are a wait for ever, which the schedule bounds.
        return Some(text.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(limits::SECOND));
    }
    Some(http_date(text)?.saturating_mul(limits::SECOND).saturating_sub(now.0))
}

/// Unix seconds of `Sun, 06 Nov 1994 08:49:37 GMT`; none for a date before 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let number = |word: Option<&str>| word?.parse::<u64>().ok();
    let day = number(words.next()).filter(|day| (1..=31).contains(day))?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64 + 1;
    let year = number(words.next()).filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':');
    let (hour, minute, second) = (number(clock.next())?, number(clock.next())?, number(clock.next())?);
    let is_whole = words.next() == Some("GMT") && words.next().is_none() && clock.next().is_none();
    if !is_whole || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days_to(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March here, so that a leap day ends one.
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    let year = if month > 2 { year } else { year - 1 };
    let months = (month + 9) % 12;
    let day_of_year = (153 * months + 2) / 5 + day - 1;
    const TO_1970: u64 = 719_468;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - TO_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_a_delivery_and_410_a_good_bye() {
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judge(status, None), PostResult::Delivered { status });
        }
        assert_eq!(judge(410, None), PostResult::Gone);
        for status in [300, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 502, 503, 504] {
            let PostResult::Failed { why, retry_after } = judge(status, Some(7)) else { panic!("{status}") };
            assert!(why.contains(&status.to_string()), "{why}");
            assert_eq!(retry_after, Some(7));
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = Wall(784_111_777_000 - 90_000);
        assert_eq!(retry_after("120", now), Some(120_000));
        assert_eq!(retry_after(" 0 ", now), Some(0));
        assert_eq!(retry_after("99999999999999999999999999", now), Some(u64::MAX));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(90_000));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", Wall(u64::MAX)), Some(0), "a date that has passed");
        let nonsense = [
            "",
            "soon",
            "-5",
            "1.5",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Now 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
        ];
        for text in nonsense {
            assert_eq!(retry_after(text, now), None, "{text}");
        }
    }

    #[test]
    fn dates_agree_with_those_that_are_known() {
        let known = [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Wed, 31 Dec 2025 23:59:59 GMT", 1_767_225_599),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ];
        for (text, seconds) in known {
            assert_eq!(http_date(text), Some(seconds), "{text}");
        }
    }
}
