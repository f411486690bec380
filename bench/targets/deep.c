/* deep COUNT: calls bottom() COUNT times, sixteen functions below main(). Built without frame
 * pointers; with what the C library adds, bottom()'s stack has twenty frames. */
#include <stdlib.h>

#define NOINLINE __attribute__((noinline, noclone, noipa))

static volatile long sink;

NOINLINE long bottom(long value) { return value + sink; }

/* Frames of different sizes, with registers to save, as real functions have. */
#define LAYER(name, below, size)                                                                   \
    NOINLINE long name(long value)                                                                 \
    {                                                                                              \
        volatile char room[size];                                                                  \
        room[value & 7] = 1;                                                                       \
        long result = below(value + 1);                                                            \
        sink = room[value & 7];                                                                    \
        return result + value;                                                                     \
    }

LAYER(layer15, bottom, 16)
LAYER(layer14, layer15, 200)
LAYER(layer13, layer14, 40)
LAYER(layer12, layer13, 24)
LAYER(layer11, layer12, 64)
LAYER(layer10, layer11, 16)
LAYER(layer9, layer10, 300)
LAYER(layer8, layer9, 96)
LAYER(layer7, layer8, 16)
LAYER(layer6, layer7, 48)
LAYER(layer5, layer6, 128)
LAYER(layer4, layer5, 16)
LAYER(layer3, layer4, 72)
LAYER(layer2, layer3, 500)
LAYER(layer1, layer2, 32)

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1000;
    for (long i = 0; i < count; i++)
        sink = layer1(i);
    return 0;
}
