/**
 * bitttt: ternary language models that learn while they run. C99 and C++11; no heap, no C library, no operating system.
 *
 * Every function returns a bitttt_status, BITTTT_STATUS_OK or why it refused; bitttt_error_message alone returns a string.
 * A null pointer is BITTTT_STATUS_NULL unless the function says that it may be null. A misaligned pointer, a length that no
 * object has, a buffer over the session's memory, and memory that holds no session are refused as well. Blobs and
 * snapshots may be damaged or foreign; they are checked. What cannot be checked is the caller's part: that a pointer
 * leads to as many items as the length beside it says, and that one session is used by one thread at a time.
 *
 * The same blob and the same tokens give the same bits on every target: logits, sampled tokens, learned state.
 *
 * Made by cbindgen from bindings/c/src; do not edit.
 */

#ifndef BITTTT_H
#define BITTTT_H

#include <stddef.h>
#include <stdint.h>

/// Session memory starts on a multiple of as many bytes.
#define BITTTT_ALIGN 8

/// The part of a session's memory that does not depend on the model, in bytes; the same on every target, so that
/// `bitttt_memory_size` may be asked on one and used on another.
#define BITTTT_SESSION_BYTES 512

/// What a call came to. Where it is not `BITTTT_STATUS_OK`, the session is as it was before the call.
typedef enum bitttt_status {
  /// Done.
  BITTTT_STATUS_OK = 0,
  /// A pointer is null.
  BITTTT_STATUS_NULL = 1,
  /// A pointer is not aligned as its type demands: session memory on `BITTTT_ALIGN` bytes, a blob on 4.
  BITTTT_STATUS_MISALIGNED = 2,
  /// A length is larger than any object can be.
  BITTTT_STATUS_LENGTH = 3,
  /// A buffer lies inside of the session's memory or of the blob, or over another one of the call.
  BITTTT_STATUS_OVERLAP = 4,
  /// There is no session here: never initialised, overwritten, or moved.
  BITTTT_STATUS_SESSION = 5,
  /// There is no sampler here: never initialised, or overwritten.
  BITTTT_STATUS_SAMPLER = 6,
  /// A setting is not a number, or out of its range.
  BITTTT_STATUS_SETTING = 7,
  /// The memory is shorter than `bitttt_memory_size` says.
  BITTTT_STATUS_MEMORY = 8,
  /// A buffer is too short.
  BITTTT_STATUS_BUFFER = 9,
  /// A token is not in the vocabulary.
  BITTTT_STATUS_TOKEN = 10,
  /// There is no token to read, or no logit to choose from.
  BITTTT_STATUS_EMPTY = 11,
  /// An attention layer without a window has no room for more tokens.
  BITTTT_STATUS_CONTEXT = 12,
  /// The blob has no tokenizer.
  BITTTT_STATUS_NO_TOKENIZER = 13,
  /// These bytes are not a `.bttt` blob.
  BITTTT_STATUS_NOT_A_BLOB = 14,
  /// The blob has a format version that this library does not read.
  BITTTT_STATUS_BLOB_VERSION = 15,
  /// The blob is cut short or too long.
  BITTTT_STATUS_BLOB_LENGTH = 16,
  /// The blob is damaged: a checksum does not match.
  BITTTT_STATUS_BLOB_CHECKSUM = 17,
  /// The blob contradicts itself; `bitttt inspect` names the field.
  BITTTT_STATUS_BLOB_INVALID = 18,
  /// These bytes are not a snapshot.
  BITTTT_STATUS_NOT_A_SNAPSHOT = 19,
  /// The snapshot has a version that this library does not read.
  BITTTT_STATUS_SNAPSHOT_VERSION = 20,
  /// The snapshot was taken on another model.
  BITTTT_STATUS_SNAPSHOT_MODEL = 21,
  /// The snapshot is cut short, too long, or taken with other room for context.
  BITTTT_STATUS_SNAPSHOT_LENGTH = 22,
  /// The snapshot is damaged: its checksum does not match, or a value is not finite.
  BITTTT_STATUS_SNAPSHOT_DAMAGED = 23,
  /// The engine refused for a reason that this version of the header has no name for.
  BITTTT_STATUS_OTHER = 24,
} bitttt_status;

/// One stream of tokens through a model. It lives in the memory that it was given; there is nothing to free.
///
/// One thread at a time may use it. It must stay where it was made.
typedef struct bitttt_session bitttt_session;

/// A model's dimensions.
typedef struct bitttt_model_config {
  /// Number of tokens, and of logits.
  uint32_t vocab_size;
  /// Token that starts and separates documents.
  uint32_t document_token;
  /// Width of the residual stream.
  uint32_t width;
  /// Number of layers.
  uint32_t layers;
  /// Number of heads.
  uint32_t heads;
  /// Tokens in a mini-batch of test-time training.
  uint32_t mini_batch;
  /// Tokens that attention layers without a window have room for; may be 0 where there is none.
  uint32_t context;
  /// Tokens that the tokenizer makes; 0 where the blob has none.
  uint32_t tokenizer_tokens;
  /// Identifies the model: CRC-32 over its checksums.
  uint32_t fingerprint;
} bitttt_model_config;

/// How a session is made. All zeros, or a null pointer instead, is the least memory.
typedef struct bitttt_options {
  /// Tokens that `bitttt_prefill` takes through a layer at once. More is faster and needs more memory; 0 counts as 1.
  size_t batch;
  /// Tokens that attention layers without a window have room for; 0: as many as the model says. Nothing changes for
  /// models without such layers.
  size_t context;
} bitttt_options;

/// What a session needs, part by part, in bytes; the same on every target.
typedef struct bitttt_memory_plan {
  /// All of it: the sum of the parts.
  size_t memory;
  /// The session itself: `BITTTT_SESSION_BYTES`.
  size_t session;
  /// What survives a token and goes into a snapshot: fast weights, open mini-batch, keys and values, convolution
  /// history.
  size_t state;
  /// Rotary table of test-time training.
  size_t rope;
  /// Rotary frequencies and angles of attention.
  size_t angles;
  /// Residual stream and one normed copy.
  size_t residual;
  /// Intermediates of mixer or feed-forward network, whichever are more.
  size_t hidden;
  /// Quantised activations.
  size_t quantised;
  /// Look-up tables of products with `t5` weights.
  size_t tables;
  /// Temporaries of the mixers' heads.
  size_t head;
  /// Logits.
  size_t logits;
  /// A snapshot, which is not part of the memory.
  size_t snapshot;
} bitttt_memory_plan;

/// A seeded sampler, made by `bitttt_sampler_init`; wherever the caller has room for it. It may be copied.
typedef struct bitttt_sampler {
  /// Not for use.
  uint64_t opaque[6];
} bitttt_sampler;

/// How tokens are chosen. All zeros, or a null pointer instead, always takes the most probable one.
typedef struct bitttt_sampling {
  /// 0: greedy. 1: as the model says. Larger: more even.
  float temperature;
  /// Keeps the fewest most probable tokens whose probabilities sum to this, from 0 to 1; 0 and 1 keep all.
  float top_p;
  /// Keeps as many of the most probable tokens, and those that tie with the last of them; 0 keeps all.
  uint32_t top_k;
  /// Seed of the generator: the same seed gives the same tokens everywhere.
  uint64_t seed;
} bitttt_sampling;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/// Reads every byte of a blob: checksums, codes, padding. About 75 instructions a byte on a microcontroller; once after flashing is enough.
///
/// `blob`: `blob_len` bytes, 4-byte aligned.
/// Errors: those of a blob.
enum bitttt_status bitttt_verify(const uint8_t *blob,
                                 size_t blob_len);

/// Dimensions of the model in a blob, whose structure is checked.
///
/// Errors: those of a blob.
enum bitttt_status bitttt_config(const uint8_t *blob, size_t blob_len, struct bitttt_model_config *config);

/// What a session on this blob needs, part by part. `options` may be null.
///
/// Errors: those of a blob.
enum bitttt_status bitttt_plan(const uint8_t *blob,
                               size_t blob_len,
                               const struct bitttt_options *options,
                               struct bitttt_memory_plan *plan);

/// Bytes of memory that a session on this blob needs: `bitttt_plan`'s `memory`. `options` may be null.
///
/// The same on every target: asked on a workstation it is the size of a static array on a device.
/// Errors: those of a blob.
enum bitttt_status bitttt_memory_size(const uint8_t *blob,
                                      size_t blob_len,
                                      const struct bitttt_options *options,
                                      size_t *bytes);

/// Makes a sampler. `settings` may be null: greedy.
///
/// Errors: `BITTTT_STATUS_SETTING`.
enum bitttt_status bitttt_sampler_init(struct bitttt_sampler *sampler,
                                       const struct bitttt_sampling *settings);

/// Chooses a token.
///
/// `logits`: `count` of them, as `bitttt_step` returns them; overwritten unless the sampler is greedy.
/// `token`: set to the choice; to 0 where no logit is a number.
///
/// Errors: `BITTTT_STATUS_SAMPLER`, `BITTTT_STATUS_EMPTY`.
enum bitttt_status bitttt_sample(struct bitttt_sampler *sampler,
                                 float *logits,
                                 size_t count,
                                 uint32_t *token);

/// Makes a session at the start of a document, in memory of the caller.
///
/// `blob`: `blob_len` bytes, 4-byte aligned, which stay there unchanged as long as the session is used; they are read
/// in place. Its structure is checked, its data by `bitttt_verify` only.
/// `options`: may be null.
/// `memory`: at least `bitttt_memory_size` bytes with the same options, aligned to `BITTTT_ALIGN`; content does not
/// matter. A session that was there is gone.
/// `session`: set to the session, which lies in `memory`; to null on error.
///
/// Errors: `BITTTT_STATUS_MEMORY`, and those of a blob.
enum bitttt_status bitttt_session_init(const uint8_t *blob,
                                       size_t blob_len,
                                       const struct bitttt_options *options,
                                       void *memory,
                                       size_t memory_len,
                                       struct bitttt_session **session);

/// Reads one token, learning from it.
///
/// `logits`: set to the logits `[vocab_size]` that follow the token. They lie in the session's memory, may be changed
/// (`bitttt_sample` does), and are valid until the next call with this session.
/// `count`: set to their number.
///
/// Errors: `BITTTT_STATUS_TOKEN`, `BITTTT_STATUS_CONTEXT`.
enum bitttt_status bitttt_step(struct bitttt_session *session,
                               uint32_t token,
                               float **logits,
                               size_t *count);

/// Reads tokens, learning from them.
///
/// `tokens`: `tokens_len` of them, at least one.
/// `logits`, `count`: as with `bitttt_step`, after the last of the tokens.
///
/// Errors: `BITTTT_STATUS_EMPTY`, `BITTTT_STATUS_TOKEN`, `BITTTT_STATUS_CONTEXT`; no token has been read then.
enum bitttt_status bitttt_prefill(struct bitttt_session *session,
                                  const uint32_t *tokens,
                                  size_t tokens_len,
                                  float **logits,
                                  size_t *count);

/// Forgets everything that was learned: fast weights as the model was trained, position 0. Call it between documents.
enum bitttt_status bitttt_reset(struct bitttt_session *session);

/// Whether tokens train the fast weights from the next one on: 0 reads without learning, any other number learns, as a
/// new session does.
enum bitttt_status bitttt_set_learning(struct bitttt_session *session,
                                       int learning);

/// Tokens read since the start of the document.
enum bitttt_status bitttt_position(const struct bitttt_session *session, uint64_t *position);

/// Updates of a head that were dropped because they were not finite, since the start of the document. More than 0 says
/// that the model does not suit its stream.
enum bitttt_status bitttt_dropped_updates(const struct bitttt_session *session,
                                          uint32_t *updates);

/// CRC-32 of the learned state and the position: equal on every target after the same tokens.
enum bitttt_status bitttt_state_hash(const struct bitttt_session *session, uint32_t *hash);

/// Bytes of a snapshot of this session.
enum bitttt_status bitttt_snapshot_size(const struct bitttt_session *session, size_t *bytes);

/// Writes what the session has learned into a buffer, from which `bitttt_restore` continues, on this machine or
/// another, to the same bits.
///
/// `buffer`: `buffer_len` bytes, at least `bitttt_snapshot_size`.
/// `written`: set to the bytes used.
///
/// Errors: `BITTTT_STATUS_BUFFER`.
enum bitttt_status bitttt_snapshot(const struct bitttt_session *session,
                                   uint8_t *buffer,
                                   size_t buffer_len,
                                   size_t *written);

/// Goes on from a snapshot: `snapshot_len` bytes, exactly those that `bitttt_snapshot` wrote.
///
/// Errors: those of a snapshot; the session is as before then.
enum bitttt_status bitttt_restore(struct bitttt_session *session,
                                  const uint8_t *snapshot,
                                  size_t snapshot_len);

/// One sentence about a status, what to do about it included.
///
/// Returns a string that is valid for ever, also for a number that is no status; never null.
const char *bitttt_error_message(int status);

/// Turns text into tokens. Never makes special tokens: put `document_token` in front of a document yourself.
///
/// `text`: `text_len` bytes, any; the 0 at the end of a C string does not count.
/// `tokens`: room for `tokens_len` tokens; as many as the text has bytes are always enough.
/// `count`: set to the number of tokens.
///
/// Errors: `BITTTT_STATUS_BUFFER` (some of `tokens` may have been written then), `BITTTT_STATUS_NO_TOKENIZER`.
enum bitttt_status bitttt_encode(const struct bitttt_session *session,
                                 const char *text,
                                 size_t text_len,
                                 uint32_t *tokens,
                                 size_t tokens_len,
                                 size_t *count);

/// The bytes of a token, which may be part of a UTF-8 character only.
///
/// `text`: set to the bytes, which lie in the blob and have no 0 at their end.
/// `len`: set to their number; 0 for special tokens and for tokens out of range.
///
/// Errors: `BITTTT_STATUS_NO_TOKENIZER`.
enum bitttt_status bitttt_decode(const struct bitttt_session *session,
                                 uint32_t token,
                                 const char **text,
                                 size_t *len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BITTTT_H */
