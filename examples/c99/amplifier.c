/* A WAV file through a model in blocks, as an audio host does it: amplifier IN.wav OUT.wav.

   Only `on_audio` would run in the audio thread. It reads 16-bit mono, which is all that this example needs. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AMP_IMPLEMENTATION
#include "amp.h"

enum { FRAMES = 64 };

/* The audio callback: no locks, no allocation, the same time for all samples. */
static void on_audio(amp_state *amp, float *samples, size_t frames)
{
    if (amp_run(amp, frames, samples, samples) != AMP_OK)
        memset(samples, 0, frames * sizeof *samples); /* silence instead of undefined samples */
}

static unsigned number(const unsigned char *bytes, int count)
{
    unsigned value = 0;
    while (count--)
        value = value << 8 | bytes[count];
    return value;
}

static short rounded(float sample)
{
    const float scaled = sample * 32767.0f;
    return (short)(scaled > 32767.0f ? 32767.0f : scaled < -32768.0f ? -32768.0f : scaled);
}

static int fail(const char *message)
{
    fprintf(stderr, "amplifier: %s\n", message);
    return 1;
}

int main(int count, char **arguments)
{
    static amp_state amp;
    unsigned char header[44], bytes[2 * FRAMES];
    float samples[FRAMES];
    size_t frames, k, left;
    FILE *in, *out;
    if (count != 3)
        return fail("expected IN.wav OUT.wav");
    in = fopen(arguments[1], "rb");
    if (!in || fread(header, 1, sizeof header, in) != sizeof header)
        return fail("the input cannot be read");
    if (memcmp(header, "RIFF", 4) || memcmp(header + 8, "WAVEfmt ", 8) || memcmp(header + 36, "data", 4) ||
        number(header + 20, 2) != 1 || number(header + 22, 2) != 1 || number(header + 34, 2) != 16)
        return fail("expected a WAV file of 16-bit mono samples with a header of 44 bytes");
    out = fopen(arguments[2], "wb");
    if (!out || fwrite(header, 1, sizeof header, out) != sizeof header)
        return fail("the output cannot be written");
    if (amp_init(&amp) != AMP_OK)
        return fail("the model cannot be used");
    for (left = number(header + 40, 4) / 2; left > 0; left -= frames) {
        frames = left < FRAMES ? left : FRAMES;
        if (fread(bytes, 2, frames, in) != frames)
            return fail("the input ends too early");
        for (k = 0; k < frames; k++)
            samples[k] = (float)(short)number(bytes + 2 * k, 2) / 32768.0f;
        on_audio(&amp, samples, frames);
        for (k = 0; k < frames; k++) {
            const unsigned value = (unsigned)rounded(samples[k]);
            bytes[2 * k] = (unsigned char)(value & 255);
            bytes[2 * k + 1] = (unsigned char)(value >> 8 & 255);
        }
        if (fwrite(bytes, 2, frames, out) != frames)
            return fail("the output cannot be written");
    }
    fclose(in);
    return fclose(out) ? fail("the output cannot be written") : 0;
}
