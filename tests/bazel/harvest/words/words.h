// The words of a text. Included here, by the tally library and by the binary.
#ifndef WORDS_WORDS_H_
#define WORDS_WORDS_H_

#include <cstddef>
#include <string>
#include <vector>

namespace words {

// Shorter words are left out.
inline constexpr std::size_t kShortest = 3;

// The words in order of appearance, without those of stop_words.txt.
std::vector<std::string> Split(const std::string& text);

}  // namespace words

#endif  // WORDS_WORDS_H_
