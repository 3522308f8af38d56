// A few threads that share the loops of one operation at a time.
#ifndef INGLE_POOL_H
#define INGLE_POOL_H

#include <cstddef>

namespace ingle {

// Runs task(argument, i) once for every i below `count`, on the calling thread and on whichever
// helpers are awake, and returns when all have ended. A helper that is late costs nothing: it
// finds less to do. Calls from several threads at once are allowed; one of them gets the helpers.
void parallel(std::size_t count, void (*task)(const void*, std::size_t), const void* argument);

// Whether to leave a core to others from the next call on: one helper then rests.
void share_cores(bool shares);

// The same as `parallel` for a callable; its captures must outlive the call, which they do.
template <typename F>
void parallel_for(std::size_t count, const F& f) {
  parallel(
      count,
      [](const void* argument, std::size_t i) { (*static_cast<const F*>(argument))(i); },
      &f);
}

} // namespace ingle

#endif
