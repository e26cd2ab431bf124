//! The first message of whoever dials a rank: read and admitted, or refused.
#![no_main]

#[allow(dead_code)]
#[path = "../../../worker/server/src/links/greeting.rs"]
mod greeting;
#[allow(dead_code)]
#[path = "../../../worker/server/src/links/message.rs"]
mod message;

use greeting::{Guest, Party};
use libfuzzer_sys::fuzz_target;
use naru_engine::Parallelism;
use naru_protocol::links::v1::{Answer, Hello, Word};
use tokio::runtime::Builder;

fuzz_target!(|bytes: &[u8]| {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let _ = message::read::<Answer, _>(&mut &*bytes).await;
        let _ = message::read::<Word, _>(&mut &*bytes).await;
        let Ok(hello) = message::read::<Hello, _>(&mut &*bytes).await else { return };
        let parallelism = Parallelism::new(2, 2).expect("four ranks");
        for rank in 0..4 {
            let replica = "r".to_owned();
            let party = Party { replica, parallelism, rank, model: [7; 32], kv_blocks: 100 };
            if let Ok(Guest::Led { rank: other, .. } | Guest::Peer { rank: other, .. }) = party.admit(&hello) {
                assert!(other < 4 && other != rank, "a guest is one of the others");
            }
        }
    });
});
