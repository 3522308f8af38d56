#include "pool.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace ingle {

namespace {

// Reading weights is bound by memory, which a handful of cores saturate.
constexpr unsigned MAX_HELPERS = 7;

// How often a helper looks for the next operation before it sleeps: some 50 microseconds, about
// the time between two operations of a decode step.
constexpr int SPINS = 2000;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(unsigned helpers) : helpers_(helpers), awake_(helpers) {
    for (unsigned i = 0; i < helpers; i++) {
      std::thread([this, i] { help(i); }).detach();
    }
  }

  // Lets one helper rest, or calls it back.
  void share(bool shares) {
    awake_ = shares && helpers_ > 0 ? helpers_ - 1 : helpers_;
    awake_.notify_all();
  }

  void run(std::size_t count, void (*task)(const void*, std::size_t), const void* argument) {
    std::unique_lock lock(busy_, std::try_to_lock);
    if (count < 2 || awake_ == 0 || !lock.owns_lock()) {
      for (std::size_t i = 0; i < count; i++) {
        task(argument, i);
      }
      return;
    }
    task_ = task;
    argument_ = argument;
    count_ = count;
    next_ = 0;
    open_ = true;
    ++epoch_;
    epoch_.notify_all();
    take();
    // A helper is either inside, and is waited for, or comes later, and finds the door closed.
    // Only then may the task's data go.
    open_ = false;
    while (inside_ != 0) {
      pause();
    }
  }

 private:
  void take() {
    for (std::size_t i; (i = next_++) < count_;) {
      task_(argument_, i);
    }
  }

  void help(unsigned index) {
    unsigned seen = 0;
    while (true) {
      // One that rests does not look for operations either: that would take the core as well.
      if (const unsigned awake = awake_; index >= awake) {
        awake_.wait(awake);
        continue;
      }
      for (int spin = 0; epoch_ == seen && spin < SPINS; spin++) {
        pause();
      }
      epoch_.wait(seen);
      seen = epoch_;
      ++inside_;
      if (open_) {
        take();
      }
      --inside_;
    }
  }

  std::mutex busy_;
  const unsigned helpers_;
  std::atomic<unsigned> awake_;
  void (*task_)(const void*, std::size_t) = nullptr;
  const void* argument_ = nullptr;
  std::size_t count_ = 0;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> open_{false};
  std::atomic<int> inside_{0};
  std::atomic<unsigned> epoch_{0};
};

} // namespace

namespace {

Pool& pool() {
  // Never destroyed: its threads may outlive static destruction.
  static Pool& pool =
      *new Pool(std::min(std::max(std::thread::hardware_concurrency(), 1u) - 1, MAX_HELPERS));
  return pool;
}

} // namespace

void parallel(std::size_t count, void (*task)(const void*, std::size_t), const void* argument) {
  pool().run(count, task, argument);
}

void share_cores(bool shares) {
  pool().share(shares);
}

} // namespace ingle
