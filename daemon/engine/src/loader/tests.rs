//! Tests of the loader thread on small files.

use super::*;
use crate::tensor::HostData;
use ingle_formats::gguf::testing::GgufWriter;
use ingle_formats::gguf::{GgmlType, GgufFile};

const LIMIT: Duration = Duration::from_secs(10);

fn no_cancel() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(false))
}

fn many_tensors() -> Arc<GgufFile> {
    let mut writer = GgufWriter::new();
    for index in 0..50 {
        writer = writer.f32_tensor(&format!("t{index}"), &[2, 4], &[index as f32; 8]);
    }
    Arc::new(writer.open().unwrap())
}

fn drain(mut stream: LoadStream) -> (Vec<HostTensor>, LoadItem) {
    let mut tensors = Vec::new();
    loop {
        match stream.next_within(LIMIT).expect("the loader keeps going") {
            LoadItem::Tensor { tensor, .. } => tensors.push(tensor),
            last => {
                assert!(stream.ended());
                assert!(stream.try_next().is_none(), "nothing follows the last item");
                return (tensors, last);
            }
        }
    }
}

fn failure(gguf: GgufFile) -> EngineError {
    let stream = spawn(Arc::new(gguf), WeightPrecision::Float32, no_cancel()).unwrap();
    match drain(stream).1 {
        LoadItem::Failed(error) => error,
        other => panic!("expected a failure, not {other:?}"),
    }
}

#[test]
fn tensors_arrive_in_order_with_their_shapes() {
    let gguf = many_tensors();
    let stream = spawn(Arc::clone(&gguf), WeightPrecision::Float32, no_cancel()).unwrap();
    let (tensors, last) = drain(stream);
    assert!(matches!(last, LoadItem::Done));
    assert_eq!(tensors.len(), 50);
    assert_eq!(tensors[3].name, "t3");
    assert_eq!(tensors[3].shape, [2, 4]);
    assert_eq!(tensors[3].data, HostData::F32(vec![3.0; 8]));
    let bytes: usize = tensors.iter().map(HostTensor::bytes).sum();
    assert_eq!(bytes as u64, loaded_bytes(&gguf, WeightPrecision::Float32));
}

#[test]
fn progress_ends_at_the_total() {
    let mut stream = spawn(many_tensors(), WeightPrecision::AsStored, no_cancel()).unwrap();
    let mut last = (0, 1);
    while let Some(LoadItem::Tensor { bytes_read, bytes_total, .. }) = stream.next_within(LIMIT) {
        assert!(bytes_read > last.0);
        last = (bytes_read, bytes_total);
    }
    assert_eq!(last, (50 * 32, 50 * 32));
}

#[test]
fn loaded_bytes_are_exact_for_all_types() {
    let mut writer = GgufWriter::new();
    for kind in GgmlType::READABLE {
        let bytes = vec![0; 64 / kind.block_elements() * kind.block_bytes()];
        writer = writer.tensor(kind.name(), &[2, 32], kind, &bytes);
    }
    let gguf = Arc::new(writer.open().unwrap());
    for precision in [WeightPrecision::Float32, WeightPrecision::AsStored] {
        let (tensors, _) = drain(spawn(Arc::clone(&gguf), precision, no_cancel()).unwrap());
        let bytes: usize = tensors.iter().map(HostTensor::bytes).sum();
        assert_eq!(bytes as u64, loaded_bytes(&gguf, precision));
    }
}

#[test]
fn cancel_ends_a_loader_with_full_channel() {
    let cancel = no_cancel();
    let stream = spawn(many_tensors(), WeightPrecision::Float32, Arc::clone(&cancel)).unwrap();
    cancel.store(true, Ordering::Relaxed);
    let (tensors, last) = drain(stream);
    assert!(matches!(last, LoadItem::Failed(EngineError::Cancelled)), "{last:?}");
    assert!(tensors.len() <= limits::LOADER_TENSORS + 1);
}

#[test]
fn dropping_the_stream_ends_the_thread() {
    let gguf = many_tensors();
    drop(spawn(Arc::clone(&gguf), WeightPrecision::Float32, no_cancel()).unwrap());
    let deadline = std::time::Instant::now() + LIMIT;
    // The thread holds the file open; when it ends, ours is the only handle left.
    while Arc::strong_count(&gguf) > 1 {
        assert!(std::time::Instant::now() < deadline, "the loader thread has not ended");
        std::thread::yield_now();
    }
}

#[test]
fn panic_arrives_as_failure() {
    let (sender, items) = sync_channel(limits::LOADER_TENSORS);
    let queued_bytes = Arc::new(AtomicU64::new(0));
    let sink = LoadSink { sender, queued_bytes: Arc::clone(&queued_bytes), cancel: no_cancel() };
    spawn_with(sink, |_| panic!("boom")).unwrap();
    let (_, last) = drain(LoadStream { items, queued_bytes, ended: false });
    assert!(
        matches!(&last, LoadItem::Failed(EngineError::Native(text)) if text.contains("boom")),
        "{last:?}"
    );
}

#[test]
fn unreadable_type_is_named() {
    let q4_k = GgmlType::from_id(12).unwrap();
    let gguf = GgufWriter::new().tensor("blk.0.w", &[256], q4_k, &[0; 144]).open().unwrap();
    let message = failure(gguf).to_string();
    assert!(
        message.ends_with(
            "tensor `blk.0.w` is stored as Q4_K; this engine reads \
             F32, F16, BF16, Q8_0, Q4_0, Q4_1"
        ),
        "{message}"
    );
}

#[test]
fn non_finite_scale_names_its_tensor() {
    let mut block = [0; 34];
    block[..2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    let gguf = GgufWriter::new().tensor("w", &[32], GgmlType::Q8_0, &block).open().unwrap();
    let message = failure(gguf).to_string();
    assert!(
        message.ends_with("tensor `w`: the scale of element 0 is NaN, expected a finite number"),
        "{message}"
    );
}
