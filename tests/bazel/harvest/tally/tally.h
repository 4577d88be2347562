// How often each word occurs.
#ifndef TALLY_TALLY_H_
#define TALLY_TALLY_H_

#include <string>
#include <vector>

namespace tally {

// One line for each different word, in the order of order.h: the word, and how often it occurs.
std::string Table(const std::vector<std::string>& words);

}  // namespace tally

#endif  // TALLY_TALLY_H_
