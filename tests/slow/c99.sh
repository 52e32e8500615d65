#!/bin/sh
# Exported C99 files on other compilers and targets: each is compiled without warnings, run, and compared with the
# library's numbers over 100 steps; of the microcontrollers the size of code, weights and state is printed. A target whose
# compiler or emulator is missing is named at the end.
#
#     tests/slow/c99.sh [TARGET ...]
#
# Debian has them: apt-get install clang-16 clang-19 gcc-11 gcc-multilib gcc-mingw-w64 wine gcc-arm-none-eabi
# libnewlib-arm-none-eabi qemu-system-arm
exec python "$(dirname "$0")/c99.py" "$@"
