"""A program that compares an exported network with numbers that lstm_cy computed."""

SELF_TEST = r"""
/* With LSTM_SELF_TEST defined this file is a program: it compares 100 steps with those that lstm_cy computed.

       cc -x c -D LSTM_SELF_TEST @FILE@ && ./a.out@WEIGHTS_ARGUMENT@ */

#ifdef LSTM_SELF_TEST

#include <stdio.h>

static const @X_ELEMENT@ lstm_test_x[] = {
@TEST_X@
};
static const uint32_t lstm_test_y[] = { /* the bits of floats */
@TEST_Y@
};
static lstm_state lstm_test_state;
static float lstm_test_result[LSTM_OUTPUTS];

/* the largest difference, relative to numbers above 1; NaN and infinity differ from all other numbers by 1e30 */
static float lstm_test_difference(int *equal)
{
    float largest = 0.0f, difference, size;
    size_t step, n;
    *equal = 1;
    for (step = 0; step < @STEPS@; step++) {
        lstm_step(&lstm_test_state, @X_AT_STEP@, lstm_test_result);
        for (n = 0; n < LSTM_OUTPUTS; n++) {
            const float found = lstm_test_result[n];
            float y;
            memcpy(&y, lstm_test_y + step * LSTM_OUTPUTS + n, sizeof y);
            if (found == y || (found != found && y != y))
                continue;
            *equal = 0;
            size = y < -1.0f ? -y : y > 1.0f ? y : 1.0f;
            difference = found - y;
            difference = (difference < 0.0f ? -difference : difference) / size;
            if (!(difference <= largest))
                largest = difference <= 1e30f ? difference : 1e30f;
        }
    }
    return largest;
}

int main(@MAIN_PARAMETERS@)
{
    float first, second;
    int first_equal, second_equal;
@TEST_INIT@
    first = lstm_test_difference(&first_equal);
    lstm_reset(&lstm_test_state);
    second = lstm_test_difference(&second_equal);
    printf("%s: largest difference %g, after a reset %g; %s; state %u bytes\n",
           first <= 2e-6f && second <= 2e-6f ? "passed" : "FAILED", (double)first, (double)second,
           first_equal && second_equal ? "equal to the bit" : "not equal to the bit", (unsigned)sizeof lstm_test_state);
    return first <= 2e-6f && second <= 2e-6f ? 0 : 1;
}
#endif
"""

TEST_INIT = r"""
    if (lstm_init(&lstm_test_state) != LSTM_OK)
        return 2;
"""

TEST_INIT_APART = r"""
    static float weights[(@SIZE@ + sizeof(float)) / sizeof(float)];
    size_t size;
    int error;
    FILE *file = count > 1 ? fopen(arguments[1], "rb") : NULL;
    if (!file) {
        printf("expected the path of the weights\n");
        return 2;
    }
    size = fread(weights, 1, sizeof weights, file);
    fclose(file);
    error = lstm_init(&lstm_test_state, weights, size);
    if (error != LSTM_OK) {
        printf("the weights: error %d\n", error);
        return 2;
    }
"""
