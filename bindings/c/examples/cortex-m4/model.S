/* The model, in flash, aligned as its sections are. */
    .section .rodata.model, "a"
    .balign 64
    .global model, model_end
model:
    .incbin MODEL
model_end:
