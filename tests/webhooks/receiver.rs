//! A receiver of webhooks: enough of HTTP/1.1 to take posts, keep them, and answer as a test wants.

use flockd::wire::sign;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver as Channel, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What never comes is given up after this long; nothing here is measured by it.
const GUARD: Duration = Duration::from_secs(60);

/// One post, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post {
    /// By their names in small letters.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Post {
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    pub fn event(&self) -> String {
        self.json()["event"].as_str().expect("each body names its event").to_owned()
    }

    /// Whether the signature is that of this secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let timestamp = self.header("webhook-timestamp").parse().expect("a timestamp is a number");
        let secret = sign::parse_secret(secret).unwrap();
        self.header("webhook-signature") == sign::signature(&secret, self.id(), timestamp, &self.body)
    }
}

/// How posts are answered: a status line, with more headers if there are any.
type Answers = Box<dyn FnMut(&Post) -> String + Send>;

/// A listening receiver. Its threads end with the process.
pub struct Receiver {
    pub url: String,
    posts: Channel<Post>,
}

impl Receiver {
    /// Answers 204 to everything.
    pub fn new() -> Receiver {
        Receiver::answering(|_| "204 No Content".to_owned())
    }

    /// Answers as told; what takes long to answer holds up its own connection alone.
    pub fn answering(answers: impl FnMut(&Post) -> String + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (tell, posts) = channel();
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (tell, answers) = (tell.clone(), answers.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &tell, &answers));
            }
        });
        Receiver { url, posts }
    }

    /// Answers 204 to everything, through TLS, as `localhost`; `tls/ca.pem` vouches for it.
    #[cfg(feature = "tls")]
    pub fn through_tls() -> Receiver {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let own = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![own], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://localhost:{}/hook", listener.local_addr().unwrap().port());
        let (tell, posts) = channel();
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(|_| "204 No Content".to_owned())));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (tell, answers, config) = (tell.clone(), answers.clone(), config.clone());
                let session = rustls::ServerConnection::new(config).unwrap();
                std::thread::spawn(move || serve(rustls::StreamOwned::new(session, stream.unwrap()), &tell, &answers));
            }
        });
        Receiver { url, posts }
    }

    /// The next post.
    #[track_caller]
    pub fn next(&self) -> Post {
        self.posts.recv_timeout(GUARD).expect("a post was waited for in vain")
    }

    /// Posts that have come and were not taken.
    pub fn rest(&self) -> Vec<Post> {
        self.posts.try_iter().collect()
    }
}

/// Takes posts from one connection until it is closed.
fn serve(stream: impl Read + Write, tell: &Sender<Post>, answers: &Mutex<Answers>) {
    let mut reader = BufReader::new(stream);
    while let Some(post) = read(&mut reader) {
        let answer = (answers.lock().unwrap())(&post);
        // Known before it is answered: who sends nothing more has been heard.
        let _ = tell.send(post);
        let writer = reader.get_mut();
        let written = write!(writer, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
        if written.and_then(|()| writer.flush()).is_err() {
            return;
        }
    }
}

/// One request; none at the end, or where the sender died in the middle.
fn read(reader: &mut impl BufRead) -> Option<Post> {
    let mut first = String::new();
    if reader.read_line(&mut first).unwrap_or(0) == 0 {
        return None;
    }
    assert_eq!(first, "POST /hook HTTP/1.1\r\n");
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers["content-length"].parse().expect("a length is a number");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Post { headers, body })
}
