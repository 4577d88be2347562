#include "words/words.h"

#include <iostream>

int main() {
  const std::vector<std::string> expected = {"oats", "rye"};
  const std::vector<std::string> found = words::Split("oats and\n rye of the\n");
  std::cout << "words_test: found " << found.size() << " words\n";
  return found == expected ? 0 : 1;
}
