// Counts the lines it reads.
#include <iostream>
#include <string>

int main() {
  int count = 0;
  for (std::string line; std::getline(std::cin, line);) ++count;
  std::cout << count << " crops\n";
}
