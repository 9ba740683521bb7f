/* What main.c needs of the board: text to the debugger's console, and an end. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>
#include <stdint.h>

void print(const char *text, size_t len);
void print_line(const char *text);
/* The name, then eight hexadecimal digits. */
void print_hash(const char *name, uint32_t hash);
/* Says what went wrong and ends the emulation with a failure. */
void fail(const char *what);

#endif
