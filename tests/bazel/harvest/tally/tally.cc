#include "tally/tally.h"

#include <algorithm>
#include <iomanip>
#include <map>
#include <sstream>

#include "tally/order.h"
#include "words/words.h"

namespace tally {

std::string Table(const std::vector<std::string>& words) {
  std::map<std::string, int> counts;
  std::size_t longest = words::kShortest;
  for (const std::string& word : words) {
    ++counts[word];
    longest = std::max(longest, word.size());
  }
  std::vector<std::pair<std::string, int>> lines(counts.begin(), counts.end());
  std::sort(lines.begin(), lines.end(), Before);

  std::ostringstream table;
  for (const auto& [word, count] : lines) {
    table << std::left << std::setw(static_cast<int>(longest) + kGap) << word << count << "\n";
  }
  return table.str();
}

}  // namespace tally
