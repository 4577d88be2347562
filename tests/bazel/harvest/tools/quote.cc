// Turns the lines of standard input into a C++ array of strings with the given name.

#include <iostream>
#include <string>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: quote NAME < LINES\n";
    return 2;
  }
  std::cout << "inline constexpr const char* " << argv[1] << "[] = {\n";
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << "    R\"(" << line << ")\",\n";
  }
  std::cout << "};\n";
}
