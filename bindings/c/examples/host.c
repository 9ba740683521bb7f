/*
 * Reads a prompt, learns from it, goes on in its manner; keeps what it learned in a file.
 *
 *     host MODEL PROMPT [STATE]
 *
 * STATE is a snapshot: restored before the prompt is read where the file is there, saved after the text in any case.
 * The text goes to stdout; the hash of the learned state, which is the same on every machine, to stderr.
 */
#include "bitttt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 40 };

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

static void need(bitttt_status status, const char *what)
{
    if (status != BITTTT_STATUS_OK) {
        fail(what, bitttt_error_message(status));
    }
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes); /* aligned for any type, so for BITTTT_ALIGN */
    if (memory == NULL) {
        fail("malloc", "no memory");
    }
    return memory;
}

/* All bytes of a file, and how many; null where there is no such file. */
static uint8_t *load(const char *path, size_t *len)
{
    FILE *file = fopen(path, "rb");
    long end;
    uint8_t *bytes;
    if (file == NULL) {
        return NULL;
    }
    if (fseek(file, 0, SEEK_END) != 0 || (end = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0) {
        fail(path, "cannot be read");
    }
    *len = (size_t)end;
    bytes = allocate(*len + 1);
    if (fread(bytes, 1, *len, file) != *len) {
        fail(path, "cannot be read");
    }
    fclose(file);
    return bytes;
}

static void restore(bitttt_session *session, const char *path)
{
    size_t len;
    uint8_t *snapshot = load(path, &len);
    if (snapshot != NULL) {
        need(bitttt_restore(session, snapshot, len), path);
    }
    free(snapshot);
}

static void save(const bitttt_session *session, const char *path)
{
    size_t len;
    uint8_t *snapshot;
    FILE *file;
    need(bitttt_snapshot_size(session, &len), "snapshot");
    snapshot = allocate(len);
    need(bitttt_snapshot(session, snapshot, len, &len), "snapshot");
    file = fopen(path, "wb");
    if (file == NULL || fwrite(snapshot, 1, len, file) != len || fclose(file) != 0) {
        fail(path, "cannot be written");
    }
    free(snapshot);
}

/* The document token, then the prompt's; returns their number. */
static size_t encode(const bitttt_session *session, uint32_t document, const char *prompt, uint32_t **tokens)
{
    size_t len = strlen(prompt), count;
    *tokens = allocate((len + 1) * sizeof **tokens);
    **tokens = document;
    need(bitttt_encode(session, prompt, len, *tokens + 1, len, &count), "prompt");
    return count + 1;
}

/* Goes on after the tokens, printing. */
static void generate(bitttt_session *session, const uint32_t *tokens, size_t count)
{
    bitttt_sampler sampler;
    float *logits;
    size_t logits_len, len;
    uint32_t token;
    const char *text;
    need(bitttt_sampler_init(&sampler, NULL), "sampler"); /* greedy; see bitttt_sampling */
    need(bitttt_prefill(session, tokens, count, &logits, &logits_len), "prompt");
    for (int i = 0; i < TOKENS; i++) {
        need(bitttt_sample(&sampler, logits, logits_len, &token), "logits");
        need(bitttt_decode(session, token, &text, &len), "token");
        fwrite(text, 1, len, stdout);
        need(bitttt_step(session, token, &logits, &logits_len), "token");
    }
}

int main(int argc, char **argv)
{
    bitttt_options options = {.batch = 16}; /* the prompt in passes of 16 tokens */
    bitttt_model_config config;
    bitttt_session *session;
    size_t model_len, memory_len, count;
    uint32_t *tokens, hash;
    uint8_t *model;
    void *memory;
    if (argc < 3 || argc > 4) {
        fail("usage", "host MODEL PROMPT [STATE]");
    }
    if ((model = load(argv[1], &model_len)) == NULL) {
        fail(argv[1], "cannot be read");
    }
    need(bitttt_verify(model, model_len), argv[1]);
    need(bitttt_config(model, model_len, &config), argv[1]);
    need(bitttt_memory_size(model, model_len, &options, &memory_len), argv[1]);
    memory = allocate(memory_len);
    need(bitttt_session_init(model, model_len, &options, memory, memory_len, &session), argv[1]);
    if (argc == 4) {
        restore(session, argv[3]);
    }
    count = encode(session, config.document_token, argv[2], &tokens);
    generate(session, tokens, count);
    if (argc == 4) {
        save(session, argv[3]);
    }
    need(bitttt_state_hash(session, &hash), "state");
    fprintf(stderr, "state_hash=%08lx\n", (unsigned long)hash);
    free(tokens);
    free(memory);
    free(model);
    return 0;
}
