//! One client of a storm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use omma_proto::v1::{
    Consistency, DeleteImagesRequest, DeleteImagesResponse, GetImageRequest, Image, PutEffect, PutImagesRequest,
    PutImagesResponse, SessionToken,
};
use rand::Rng;
use rand::rngs::StdRng;
use tonic::{Code, Response, Status};

use super::load::{Seen, hits, search};
use super::tries::{Tried, of_one, request, tried};
use super::values;
use crate::client::{Client, request_id};
use crate::history::model::{Answer, Call, Effect, State};
use crate::history::{Operation, Outcome};
use crate::vectors::generator;

/// Images that all clients fight over, at a time. After a while others take their place, so that each has a history
/// that can be checked.
const CONTESTED: u32 = 12;
const GENERATION_MICROS: u64 = 3_000_000;
/// One write in so many is sent again after it was acknowledged.
const REPEAT: f64 = 0.1;
/// Longest pause between two operations, in milliseconds.
const PAUSE: u64 = 25;

struct Worker {
    number: usize,
    coordinators: Vec<Client>,
    rng: StdRng,
    values: u64,
    seen: Arc<Seen>,
}

/// What became of a write, with its token if it was acknowledged.
enum Written {
    Acknowledged(SessionToken),
    Refused,
    Unknown,
}

/// Works until it is told to stop.
pub(super) async fn work(number: usize, coordinators: Vec<Client>, seen: Arc<Seen>) {
    let rng = generator(seen.seed, 1 + number as u64);
    let mut client = Worker { number, coordinators, rng, values: 0, seen };
    let mut own = 0;
    while !client.seen.stopped() {
        if client.rng.random_bool(0.15) {
            own += 1;
            client.life_of_an_image(&format!("own-{number}-{own}")).await;
        } else {
            client.fight().await;
        }
        let pause = client.rng.random_range(0..PAUSE);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

fn effect(effect: PutEffect) -> Option<Effect> {
    match effect {
        PutEffect::Created => Some(Effect::Created),
        PutEffect::Replaced => Some(Effect::Replaced),
        PutEffect::Unchanged => Some(Effect::Unchanged),
        PutEffect::Unspecified => None,
    }
}

fn put_answer(answer: &PutImagesResponse) -> Option<Answer> {
    Some(Answer::Put(effect(answer.results.first()?.effect())?))
}

fn delete_answer(answer: &DeleteImagesResponse) -> Option<Answer> {
    Some(Answer::Deleted(answer.deleted_count > 0))
}

impl Worker {
    fn new_value(&mut self) -> u64 {
        self.values += 1;
        ((self.number as u64 + 1) << 32) | self.values
    }

    fn record(&self, id: &str, call: Call, start: u64, outcome: Outcome) {
        self.seen.history.add(id, Operation { client: self.number, call, start, outcome });
    }

    /// One operation on an image that others change as well.
    async fn fight(&mut self) {
        let generation = self.seen.history.now() / GENERATION_MICROS;
        let id = format!("hot-{generation}-{}", self.rng.random_range(0..CONTESTED));
        match self.rng.random_range(0..20) {
            0..7 => drop(self.put(&id).await),
            7..10 => drop(self.delete(&id).await),
            10..15 => self.get(&id).await,
            _ => {
                let value = self.seen.last_put().get(&id).copied();
                self.find(&id, value.unwrap_or(0)).await;
            }
        }
    }

    /// An image that nobody else touches is put, overwritten and deleted; after each write, reads at level SESSION
    /// and LINEARIZABLE must see it.
    async fn life_of_an_image(&mut self, id: &str) {
        // What the last acknowledged write left, and what writes of unknown outcome may have left since or may yet.
        let (mut expected, mut maybe): (State, Vec<State>) = (None, Vec::new());
        let mut tokens = Vec::new();
        for step in 0..3 {
            let (after, written) = match step {
                2 => (None, self.delete(id).await),
                _ => {
                    let (value, written) = self.put(id).await;
                    (Some(value), written)
                }
            };
            match written {
                Written::Acknowledged(token) => {
                    expected = after;
                    tokens = vec![token];
                }
                Written::Unknown => maybe.push(after),
                Written::Refused => {}
            }
            let allowed = [&[expected], &maybe[..]].concat();
            self.session(id, &allowed, &tokens).await;
            match after.or(expected) {
                Some(value) => self.find(id, value).await,
                None => self.get(id).await,
            }
        }
    }

    async fn put(&mut self, id: &str) -> (u64, Written) {
        let value = self.new_value();
        self.seen.put(id, value);
        let message = PutImagesRequest {
            collection: self.seen.collection.clone(),
            images: vec![values::image(self.seen.seed, id, value)],
            request_id: request_id(),
        };
        let call = move |client: Client| {
            let message = message.clone();
            async move { client.images().put_images(request(message)).await.and_then(of_one) }
        };
        let written = self.write(id, Call::Put(value), call, put_answer, |a| a.session_token).await;
        (value, written)
    }

    async fn delete(&mut self, id: &str) -> Written {
        let message = DeleteImagesRequest {
            collection: self.seen.collection.clone(),
            ids: vec![id.to_owned()],
            request_id: request_id(),
        };
        let call = move |client: Client| {
            let message = message.clone();
            async move { client.images().delete_images(request(message)).await.map(Response::into_inner) }
        };
        self.write(id, Call::Delete, call, delete_answer, |a| a.session_token).await
    }

    /// A write, and now and then the same again, which must be answered alike and have no effect.
    async fn write<T, F, W>(
        &mut self,
        id: &str,
        what: Call,
        call: F,
        answer_of: fn(&T) -> Option<Answer>,
        token_of: fn(T) -> Option<SessionToken>,
    ) -> Written
    where
        F: Fn(Client) -> W,
        W: Future<Output = Result<T, Status>>,
    {
        let start = self.seen.history.now();
        let outcome = tried(&self.coordinators, &mut self.rng, &call).await;
        let answered = match outcome {
            Tried::Answered(answered) => answered,
            Tried::Refused => {
                self.record(id, what, start, Outcome::Failed);
                return Written::Refused;
            }
            Tried::Unknown => {
                self.record(id, what, start, Outcome::Unknown);
                return Written::Unknown;
            }
            Tried::Strange(status) => {
                self.seen.violated(format!("{what:?} of {id}: {status:?}"));
                self.record(id, what, start, Outcome::Unknown);
                return Written::Unknown;
            }
        };
        let Some(answer) = answer_of(&answered) else {
            self.seen.violated(format!("{what:?} of {id} was acknowledged without saying what it did"));
            return Written::Unknown;
        };
        self.record(id, what, start, Outcome::Done { end: self.seen.history.now(), answer });
        self.seen.acknowledged.fetch_add(1, Ordering::Relaxed);
        if self.rng.random_bool(REPEAT) {
            let pause = self.rng.random_range(0..400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if let Tried::Answered(again) = tried(&self.coordinators, &mut self.rng, &call).await {
                self.seen.repeats.fetch_add(1, Ordering::Relaxed);
                if answer_of(&again) != Some(answer) {
                    let again = answer_of(&again);
                    self.seen.violated(format!("{what:?} of {id}: {answer:?} at first, {again:?} when sent again"));
                }
            }
        }
        token_of(answered).map_or(Written::Unknown, Written::Acknowledged)
    }

    async fn read(&mut self, id: &str, consistency: Consistency, tokens: &[SessionToken]) -> Tried<Option<Image>> {
        let message = GetImageRequest {
            collection: self.seen.collection.clone(),
            id: id.to_owned(),
            include_embedding: true,
            consistency: consistency.into(),
            session_tokens: tokens.to_vec(),
        };
        let call = move |client: Client| {
            let message = message.clone();
            async move {
                match client.images().get_image(request(message)).await {
                    Ok(answer) => Ok(answer.into_inner().image),
                    Err(status) if status.code() == Code::NotFound => Ok(None),
                    Err(status) => Err(status),
                }
            }
        };
        tried(&self.coordinators, &mut self.rng, call).await
    }

    /// The state that a read tells, if it was answered.
    fn state(&self, id: &str, read: Tried<Option<Image>>) -> Option<State> {
        match read {
            Tried::Answered(None) => Some(None),
            Tried::Answered(Some(image)) => match values::of_image(self.seen.seed, &image) {
                Ok(value) => Some(Some(value)),
                Err(torn) => {
                    self.seen.violated(torn);
                    None
                }
            },
            Tried::Strange(status) => {
                self.seen.violated(format!("reading {id}: {status:?}"));
                None
            }
            Tried::Refused | Tried::Unknown => None,
        }
    }

    async fn get(&mut self, id: &str) {
        let start = self.seen.history.now();
        let read = self.read(id, Consistency::Linearizable, &[]).await;
        let outcome = match self.state(id, read) {
            Some(state) => Outcome::Done { end: self.seen.history.now(), answer: Answer::Got(state) },
            None => Outcome::Failed,
        };
        self.record(id, Call::Get, start, outcome);
    }

    /// Looks for `id` by the embedding of `value`. Every hit, of whatever image, is an observation.
    async fn find(&mut self, id: &str, value: u64) {
        let message = search(&self.seen, value, Consistency::Linearizable, Vec::new());
        let call = move |client: Client| {
            let message = message.clone();
            async move { client.searches().search(request(message)).await.map(Response::into_inner) }
        };
        let start = self.seen.history.now();
        let answer = match tried(&self.coordinators, &mut self.rng, call).await {
            Tried::Answered(answer) => answer,
            Tried::Refused | Tried::Unknown => return self.record(id, Call::Find(value), start, Outcome::Failed),
            Tried::Strange(status) => return self.seen.violated(format!("searching: {status:?}")),
        };
        let end = self.seen.history.now();
        let done = |found| Outcome::Done { end, answer: Answer::Found(found) };
        let found = hits(&self.seen, value, &answer);
        if !found.iter().any(|(hit, of)| hit == id && *of == value) {
            self.record(id, Call::Find(value), start, done(false));
        }
        for (hit, of) in found.iter().filter(|(hit, _)| hit.starts_with("hot-") || hit.starts_with("own-")) {
            self.record(hit, Call::Find(*of), start, done(true));
        }
    }

    /// A read with the tokens of this client's writes must see what they did, or what a later one of it may have done.
    async fn session(&mut self, id: &str, expected: &[State], tokens: &[SessionToken]) {
        let read = self.read(id, Consistency::Session, tokens).await;
        let Some(state) = self.state(id, read) else { return };
        self.seen.sessions.fetch_add(1, Ordering::Relaxed);
        // Without a token nothing is promised but that the value was put.
        if !tokens.is_empty() && !expected.contains(&state) {
            self.seen.violated(format!("a session read of {id} saw {state:?}, but its own writes left {expected:?}"));
        }
    }
}
