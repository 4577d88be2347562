#include "tally/tally.h"

#include <iostream>

int main() {
  const std::string table = tally::Table({"rye", "oats", "rye", "barley"});
  std::cout << "tally_test: the table reads\n" << table;
  const std::size_t rye = table.find("rye");
  const std::size_t barley = table.find("barley");
  const std::size_t oats = table.find("oats");
  return rye < barley && barley < oats && oats != std::string::npos ? 0 : 1;
}
