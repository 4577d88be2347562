// Fails always; what it says before must reach the user.

#include <iostream>

int main() {
  std::cout << "failing_test: counted 5 sheaves where 7 were bound" << std::endl;
  std::cerr << "failing_test: giving up with exit code 3" << std::endl;
  return 3;
}
