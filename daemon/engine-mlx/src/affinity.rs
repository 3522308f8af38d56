//! Why nothing of MLX may leave its thread: MLX's streams are thread-local.
//!
//! `mlx_rs::Array` is `Send`, so the compiler would let one out; only the design keeps it in.

use mlx_rs::Array;

#[test]
fn an_array_made_on_one_thread_fails_on_another_with_mlxs_own_stream_error() {
    let one = Array::from_slice(&[1.0_f32, 2.0], &[2]);
    let queued = one.add(&one).expect("queueing works where the array was made");
    let elsewhere = std::thread::spawn(move || queued.eval().map_err(|error| error.to_string()));
    let error = elsewhere.join().expect("an error, not a panic").expect_err("it must fail");
    assert!(error.contains("There is no Stream"), "{error}");
}
