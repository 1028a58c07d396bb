//! Webhooks on their way out: what may be sent where, signed, tried once, in a thread of its own.
//!
//! It knows neither what happened nor what is sent again and when: the server makes the posts, the table decides.

mod address;
mod post;

pub use address::check_url;
pub use post::{Post, Poster};

use crate::clock;
use crate::limits;
use crate::model::PostResult;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;

/// What came of a post.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Whose post it was, in the caller's numbers.
    pub token: u64,
    /// What came of it.
    pub result: PostResult,
    /// Milliseconds that it took.
    pub took: u64,
}

/// Sends posts, each in a thread of its own. The caller has at most [`limits::WEBHOOK_POSTS`] on their way, so a slow
/// receiver holds up nobody and the threads are bounded.
pub struct Courier {
    poster: Arc<Poster>,
    wake: Arc<dyn Fn() + Send + Sync>,
    tell: Sender<Posted>,
    posted: Receiver<Posted>,
}

impl Courier {
    /// `wake` is called when there is something to take up.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Courier {
        // Room for all: no thread ever waits to tell.
        let (tell, posted) = bounded(limits::WEBHOOK_POSTS);
        Courier { poster: Arc::new(Poster::new()), wake: Arc::new(wake), tell, posted }
    }

    /// Sends one post; what came of it is taken up later.
    pub fn send(&self, token: u64, post: Post) {
        let (poster, wake, tell) = (self.poster.clone(), self.wake.clone(), self.tell.clone());
        let run = move || {
            let begun = clock::now();
            let result = poster.post(&post, begun.wall);
            let took = clock::now().mono.0 - begun.mono.0;
            // The loop is gone: so is whoever would want to know.
            if tell.send(Posted { token, result, took }).is_ok() {
                wake();
            }
        };
        if let Err(error) = std::thread::Builder::new().name("flockd-webhook".into()).spawn(run) {
            let why = format!("no thread could be started to send it: {error}").into();
            let result = PostResult::Failed { why, retry_after: None };
            let told = self.tell.try_send(Posted { token, result, took: 0 });
            assert!(told.is_ok(), "there is room for all posts that are on their way");
            (self.wake)();
        }
    }

    /// The next result, if one is there.
    pub fn posted(&self) -> Option<Posted> {
        self.posted.try_recv().ok()
    }
}
