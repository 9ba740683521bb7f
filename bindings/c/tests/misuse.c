/*
 * Uses bitttt.h wrongly in every way that C makes easy: each is refused by name, and the session goes on as before.
 *
 *     misuse MODEL
 */
#include "bitttt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int faults;

/* Compares a status with the one that is expected. */
#define EXPECT(status, call) expect(BITTTT_STATUS_##status, (call), __LINE__)

static void expect(bitttt_status expected, bitttt_status found, int line)
{
    if (found != expected) {
        fprintf(stderr, "line %d: \"%s\" instead of \"%s\"\n", line, bitttt_error_message(found), bitttt_error_message(expected));
        faults++;
    }
}

static uint8_t *load(const char *path, size_t *len)
{
    static uint64_t bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        exit(2);
    }
    *len = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    return (uint8_t *)bytes;
}

static void blobs(uint8_t *blob, size_t len)
{
    bitttt_model_config config;
    EXPECT(OK, bitttt_verify(blob, len));
    EXPECT(NULL, bitttt_verify(NULL, len));
    EXPECT(NULL, bitttt_config(blob, len, NULL));
    EXPECT(LENGTH, bitttt_verify(blob, (size_t)-1));
    EXPECT(BLOB_LENGTH, bitttt_verify(blob, len - 1));
    EXPECT(NOT_A_BLOB, bitttt_config((const uint8_t *)"not a model", 11, &config));
    blob[len / 2] ^= 1;
    EXPECT(BLOB_CHECKSUM, bitttt_verify(blob, len));
    EXPECT(OK, bitttt_config(blob, len, &config)); /* checks structure alone */
    blob[len / 2] ^= 1;
}

static void memories(const uint8_t *blob, size_t len, uint8_t *memory, size_t memory_len)
{
    static uint64_t zeros[BITTTT_SESSION_BYTES / 8];
    bitttt_session *session = (bitttt_session *)zeros;
    EXPECT(SESSION, bitttt_reset(session));
    EXPECT(NULL, bitttt_reset(NULL));
    EXPECT(MEMORY, bitttt_session_init(blob, len, NULL, memory, memory_len - 4, &session));
    EXPECT(NULL, bitttt_reset(session)); /* a failed start leaves no session */
    EXPECT(MEMORY, bitttt_session_init(blob, len, NULL, memory, 0, &session));
    EXPECT(MISALIGNED, bitttt_session_init(blob, len, NULL, memory + 4, memory_len - 4, &session));
    EXPECT(NULL, bitttt_session_init(blob, len, NULL, NULL, memory_len, &session));
    EXPECT(NULL, bitttt_session_init(blob, len, NULL, memory, memory_len, NULL));
    EXPECT(OVERLAP, bitttt_session_init(blob, len, NULL, (void *)blob, memory_len, &session));
}

static void moved(const bitttt_session *session)
{
    static uint64_t elsewhere[BITTTT_SESSION_BYTES / 8];
    memcpy(elsewhere, session, sizeof elsewhere);
    EXPECT(SESSION, bitttt_reset((bitttt_session *)elsewhere));
}

static void calls(bitttt_session *session, const uint8_t *blob)
{
    float *logits = NULL;
    size_t count;
    uint32_t tokens[4] = {0, 1, 1u << 30, 2}, token;
    uint8_t small[16];
    bitttt_sampler sampler;
    bitttt_sampling settings = {.temperature = 0.8f, .top_p = 1.5f};
    EXPECT(TOKEN, bitttt_step(session, 1u << 30, &logits, &count));
    EXPECT(TOKEN, bitttt_prefill(session, tokens, 4, &logits, &count));
    EXPECT(EMPTY, bitttt_prefill(session, tokens, 0, &logits, &count));
    EXPECT(NULL, bitttt_prefill(session, NULL, 0, &logits, &count));
    EXPECT(NULL, bitttt_step(session, 0, NULL, &count));
    EXPECT(OVERLAP, bitttt_prefill(session, (const uint32_t *)session, 4, &logits, &count));
    EXPECT(OVERLAP, bitttt_snapshot(session, (uint8_t *)blob, 64, &count));
    EXPECT(BUFFER, bitttt_snapshot(session, small, sizeof small, &count));
    EXPECT(NOT_A_SNAPSHOT, bitttt_restore(session, (const uint8_t *)"not a snapshot", 14));
    EXPECT(BUFFER, bitttt_encode(session, "Ada Varga", 9, tokens, 1, &count));
    EXPECT(SETTING, bitttt_sampler_init(&sampler, &settings));
    memset(&sampler, 0, sizeof sampler);
    EXPECT(OK, bitttt_step(session, 0, &logits, &count));
    EXPECT(SAMPLER, bitttt_sample(&sampler, logits, count, &token));
    EXPECT(OK, bitttt_sampler_init(&sampler, NULL));
    EXPECT(EMPTY, bitttt_sample(&sampler, logits, 0, &token));
    EXPECT(OK, bitttt_sample(&sampler, logits, count, &token));
}

int main(int argc, char **argv)
{
    bitttt_session *session;
    size_t len, memory_len;
    uint8_t *blob, *memory;
    uint64_t position;
    if (argc != 2) {
        return 2;
    }
    blob = load(argv[1], &len);
    blobs(blob, len);
    EXPECT(OK, bitttt_memory_size(blob, len, NULL, &memory_len));
    memory = malloc(memory_len);
    memories(blob, len, memory, memory_len);
    EXPECT(OK, bitttt_session_init(blob, len, NULL, memory, memory_len, &session));
    moved(session);
    calls(session, blob);
    EXPECT(OK, bitttt_position(session, &position));
    if (position != 1) {
        fprintf(stderr, "a refused call has read a token\n");
        faults++;
    }
    free(memory);
    if (faults == 0) {
        puts("ok");
    }
    return faults != 0;
}
