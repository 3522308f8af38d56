// Force-included when mlx-c is compiled. GCC 12 (Debian 12) has no std::format, which mlx-c's
// private/io.h uses in five error messages. Where the standard library has it, this adds nothing.
#pragma once

#include <version>

#if !defined(__cpp_lib_format)

#include <sstream>
#include <string>
#include <string_view>

namespace std {

namespace ingle_format {

inline void append(ostringstream& out, string_view pattern) {
  out << pattern;
}

// Replaces each "{}" in turn: the only replacement field that mlx-c uses.
template <typename First, typename... Rest>
void append(ostringstream& out, string_view pattern, const First& first, const Rest&... rest) {
  const auto field = pattern.find("{}");
  if (field == string_view::npos) {
    out << pattern;
    return;
  }
  out << pattern.substr(0, field) << first;
  append(out, pattern.substr(field + 2), rest...);
}

} // namespace ingle_format

template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  ingle_format::append(out, pattern, args...);
  return out.str();
}

} // namespace std

#endif
