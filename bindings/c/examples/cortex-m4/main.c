/*
 * A model in the flash of a Cortex-M4F: reads a prompt, learns from it, goes on in its manner, and reports hashes
 * that are equal to a workstation's. See ../../README.md for how it is built and run.
 */
#include "bitttt.h"
#include "board.h"

#ifndef SESSION_BYTES
#error "give -DSESSION_BYTES=N, what `bitttt plan --model FILE` says that a session takes"
#endif
#ifndef PROMPT
#define PROMPT "Ada"
#endif
#ifndef TOKENS
#define TOKENS 32
#endif

enum { PROMPT_BYTES = sizeof(PROMPT) - 1 };

/* From model.S. */
extern const uint8_t model[], model_end[];

/* All the RAM that the session takes. 64-bit words: aligned to BITTTT_ALIGN. */
static uint64_t memory[(BITTTT_SESSION_BYTES + SESSION_BYTES + 7) / 8];

static void need(bitttt_status status)
{
    if (status != BITTTT_STATUS_OK) {
        fail(bitttt_error_message(status));
    }
}

/* CRC-32 of a token's bytes, after those before it; starts and is kept inverted. */
static uint32_t crc32(uint32_t crc, uint32_t token)
{
    crc ^= token;
    for (int bit = 0; bit < 32; bit++) {
        crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xEDB88320u : 0);
    }
    return crc;
}

/* The document token and the prompt: their logits. */
static float *read_prompt(bitttt_session *session, uint32_t document, size_t *count)
{
    static uint32_t tokens[1 + PROMPT_BYTES];
    float *logits;
    size_t encoded;
    tokens[0] = document;
    need(bitttt_encode(session, PROMPT, PROMPT_BYTES, tokens + 1, PROMPT_BYTES, &encoded));
    need(bitttt_prefill(session, tokens, encoded + 1, &logits, count));
    return logits;
}

/* Goes on, printing; the hash of the tokens. */
static uint32_t generate(bitttt_session *session, float *logits, size_t count)
{
    uint32_t hash = 0xFFFFFFFFu, token;
    bitttt_sampler sampler;
    const char *text;
    size_t len;
    need(bitttt_sampler_init(&sampler, NULL));
    for (int i = 0; i < TOKENS; i++) {
        need(bitttt_sample(&sampler, logits, count, &token));
        need(bitttt_decode(session, token, &text, &len));
        print(text, len);
        hash = crc32(hash, token);
        need(bitttt_step(session, token, &logits, &count));
    }
    return ~hash;
}

int main(void)
{
    const size_t model_len = (size_t)(model_end - model);
    bitttt_model_config config;
    bitttt_session *session;
    uint32_t tokens_hash, state_hash;
    float *logits;
    size_t count;
    need(bitttt_verify(model, model_len));
    need(bitttt_config(model, model_len, &config));
    need(bitttt_session_init(model, model_len, NULL, memory, sizeof memory, &session));
    print_line(PROMPT);
    logits = read_prompt(session, config.document_token, &count);
    tokens_hash = generate(session, logits, count);
    need(bitttt_state_hash(session, &state_hash));
    print_line("\n--- report");
    print_hash("tokens_hash=", tokens_hash);
    print_hash("state_hash=", state_hash);
    print_line("ok");
    return 0;
}
