//! Thread affinity of MLX: its arrays must stay on one thread, because streams are thread-local.
//!
//! `mlx_rs::Array` is `Send`, so the compiler allows moving one; only our design prevents it.

use mlx_rs::Array;

#[test]
fn array_fails_on_another_thread() {
    let one = Array::from_slice(&[1.0_f32, 2.0], &[2]);
    let queued = one.add(&one).expect("queueing works where the array was made");
    let elsewhere = std::thread::spawn(move || queued.eval().map_err(|error| error.to_string()));
    let error = elsewhere.join().expect("an error, not a panic").expect_err("it must fail");
    assert!(error.contains("There is no Stream"), "{error}");
}
