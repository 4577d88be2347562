// Never ends by itself; what it says before it is killed must reach the user.

#include <unistd.h>

#include <iostream>

int main() {
  std::cout << "endless_test: waiting for rain" << std::endl;
  for (;;) pause();
}
