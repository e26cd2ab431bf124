//! The connection between rank 0 and another, by which they hear that the other is there.

use std::time::Duration;

use naru_protocol::links::v1::word::Word as Said;
use naru_protocol::links::v1::{Beat, Word};
use tokio::io::split;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::door::Line;
use super::message::{read, write};

/// Each side is heard of at least this often.
const BEAT: Duration = Duration::from_secs(1);
/// Whoever is silent for longer is lost. A process that was stopped for half of it is not.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Words on their way out; there are a handful in each generation.
const WORDS_MAX: usize = 64;

/// What is heard of another rank.
#[derive(Debug)]
pub(super) enum Heard {
    Said(Said),
    /// Nothing more will be heard, and why.
    Gone(String),
}

/// The rank, the number of its connection, and what is heard.
pub(super) type News = (usize, u64, Heard);

/// One such connection. Dropping it closes it.
pub(super) struct Control {
    words: mpsc::Sender<Word>,
    reading: JoinHandle<()>,
}

impl Control {
    /// Speaks and listens on `line`, from and to `rank`; what is heard goes to `heard`, with
    /// `rank` and the number of the connection.
    pub(super) fn start(line: Line, from: (usize, u64), heard: mpsc::Sender<News>) -> Self {
        let (words, mut outgoing) = mpsc::channel::<Word>(WORDS_MAX);
        let (mut reader, mut writer) = split(line);
        tokio::spawn(async move {
            let mut beats = interval(BEAT);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let word = tokio::select! {
                    word = outgoing.recv() => word,
                    _ = beats.tick() => Some(Word { word: Some(Said::Beat(Beat {})) }),
                };
                let Some(word) = word else { break };
                // The reader finds out the same.
                let Ok(Ok(())) = timeout(SILENCE_MAX, write(&mut writer, &word)).await else {
                    break;
                };
            }
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
        });
        let (rank, number) = from;
        let reading = tokio::spawn(async move {
            let reason = loop {
                let word: Word = match timeout(SILENCE_MAX, read(&mut reader)).await {
                    Ok(Ok(word)) => word,
                    Ok(Err(error)) => break format!("its connection ended: {error}"),
                    Err(_) => break format!("it said nothing for {} s", SILENCE_MAX.as_secs()),
                };
                let Some(said) = word.word.filter(|said| !matches!(said, Said::Beat(_))) else {
                    continue;
                };
                if heard.send((rank, number, Heard::Said(said))).await.is_err() {
                    return;
                }
            };
            // An error: nobody listens any more.
            let _ = heard.send((rank, number, Heard::Gone(reason))).await;
        });
        Self { words, reading }
    }

    /// Says something, after all that was said before; what cannot be said is lost with the rank.
    pub(super) fn say(&self, said: Said) {
        if self.words.try_send(Word { word: Some(said) }).is_err() {
            tracing::debug!("a word for another rank was lost with its connection");
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
