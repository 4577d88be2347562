// The order of a tally's lines. Included by tally.cc alone.
#ifndef TALLY_ORDER_H_
#define TALLY_ORDER_H_

#include <string>
#include <utility>

namespace tally {

// Blanks between the longest word and the counts.
inline constexpr int kGap = 2;

// Larger counts come first, equal ones in the order of the alphabet.
inline bool Before(const std::pair<std::string, int>& a, const std::pair<std::string, int>& b) {
  return a.second != b.second ? a.second > b.second : a.first < b.first;
}

}  // namespace tally

#endif  // TALLY_ORDER_H_
