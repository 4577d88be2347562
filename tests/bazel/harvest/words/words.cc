#include "words/words.h"

#include <sstream>

#include "words/stop_words.h"

namespace words {
namespace {

bool IsStopWord(const std::string& word) {
  for (const char* stop : kStopWords) {
    if (word == stop) return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> Split(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> found;
  for (std::string word; stream >> word;) {
    if (word.size() >= kShortest && !IsStopWord(word)) found.push_back(word);
  }
  return found;
}

}  // namespace words
