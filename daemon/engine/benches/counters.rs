//! Cost of counting one token on the engine thread, alone and with a constant reader:
//! `cargo bench -p ingled --bench counters`. It measures and asserts nothing.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ingle_engine::counters::EngineCounters;
use ingle_protocol::wire::models::EngineKind;

const TOKENS: u32 = 5_000_000;

fn main() {
    let counters = EngineCounters::default();
    let model = counters.of("model", EngineKind::Sim);
    for is_read in [false, true] {
        let has_ended = Arc::new(AtomicBool::new(false));
        let reader = is_read.then(|| {
            let (model, has_ended) = (Arc::clone(&model), Arc::clone(&has_ended));
            std::thread::spawn(move || {
                while !has_ended.load(Ordering::Relaxed) {
                    black_box(model.inter_token.read());
                }
            })
        });
        let started_at = Instant::now();
        for token in 0..TOKENS {
            // From nothing to a tenth of a second, in no order.
            let between = token.wrapping_mul(2_654_435_761) % 100_000_000;
            model.inter_token.record(black_box(Duration::from_nanos(between.into())));
            model.generated_tokens.add(1);
        }
        let took = started_at.elapsed();
        has_ended.store(true, Ordering::Relaxed);
        if let Some(reader) = reader {
            let _ = reader.join();
        }
        let name = if is_read { "while it is read" } else { "alone" };
        println!("{name:<17} {:>5.1} ns a token", took.as_secs_f64() * 1e9 / f64::from(TOKENS));
    }
}
