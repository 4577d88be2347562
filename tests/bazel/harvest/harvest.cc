// Prints how often each word of a file occurs, and the largest share first.

#include <fstream>
#include <iostream>
#include <sstream>

#include "tally/tally.h"
#include "words/words.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: harvest FILE\n";
    return 2;
  }
  std::ifstream file(argv[1]);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    std::cerr << "harvest: cannot read " << argv[1] << "\n";
    return 1;
  }
  std::cout << tally::Table(words::Split(text.str()));
  std::cout << "words of " << words::kShortest << " letters or more\n";
}
