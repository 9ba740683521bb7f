add r3, r2, r5
add r10, r3, r4
add r11, r10, r6
add r12, r11, r8
add lr, r12, r4
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r6
add r2, r1, r5
add r3, r2, r7
add r10, r8, r3, lsl #16
add r10, r10, r2, lsr #16
add r11, r10, r4
add r12, r11, r6
add lr, r12, r5
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
ldr r1, [sp, #0]
add r1, lr, r1
ldr r2, [sp, #4]
add r2, r1, r2
add r3, r2, r5
add r10, r3, r4
add r11, r10, r6
add r12, r11, r8
add lr, r9, r12, lsl #16
add lr, lr, r11, lsr #16
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r5
add r2, r1, r4
add r3, r2, r6
add r10, r3, r8
add r11, r10, r4
add r12, r11, r6
add lr, r12, r5
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
ldr r1, [sp, #0]
add r1, lr, r1
ldr r2, [sp, #4]
add r2, r1, r2
add r3, r4, r2, lsl #16
add r3, r3, r1, lsr #16
add r10, r3, r6
add r11, r10, r5
add r12, r11, r7
add lr, r12, r9
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r5
add r2, r1, r4
add r3, r2, r6
add r10, r3, r8
ldr r11, [sp, #24]
add r11, r10, r11
add r12, r5, r11, lsl #16
add r12, r12, r10, lsr #16
add lr, r12, r4
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r6
ldr r2, [sp, #20]
add r2, r1, r2
add r3, r2, r4
add r10, r3, r6
add r11, r10, r5
add r12, r11, r7
add lr, r12, r9
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
ldr r1, [sp, #28]
add r1, lr, r1
add r2, r6, r1, lsl #16
add r2, r2, lr, lsr #16
add r3, r2, r5
add r10, r3, r7
add r11, r10, r9
add r12, r11, r5
add lr, r12, r4
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r6
ldr r2, [sp, #8]
add r2, r1, r2
add r3, r2, r4
ldr r10, [sp, #32]
add r10, r3, r10
add r11, r4, r10, lsl #16
add r11, r11, r3, lsr #16
add r12, r11, r6
add lr, r12, r8
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r4
add r2, r1, r6
add r3, r2, r5
add r10, r3, r7
add r11, r10, r9
add r12, r11, r5
add lr, r6, r12, lsl #16
add lr, lr, r11, lsr #16
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r5
ldr r2, [sp, #0]
add r2, r1, r2
ldr r3, [sp, #4]
add r3, r2, r3
add r10, r3, r5
add r11, r10, r4
add r12, r11, r6
add lr, r12, r8
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r4
add r2, r1, r6
add r3, r4, r2, lsl #16
add r3, r3, r1, lsr #16
add r10, r3, r6
add r11, r10, r8
add r12, r11, r4
add lr, r12, r6
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r5
ldr r2, [sp, #12]
add r2, r1, r2
ldr r3, [sp, #16]
add r3, r2, r3
add r10, r3, r5
add r11, r10, r4
add r12, r5, r11, lsl #16
add r12, r12, r10, lsr #16
add lr, r12, r7
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r9
add r2, r1, r5
add r3, r2, r4
add r10, r3, r6
add r11, r10, r8
add r12, r11, r4
add lr, r12, r6
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
ldr r1, [sp, #28]
add r1, lr, r1
add r2, r6, r1, lsl #16
add r2, r2, lr, lsr #16
ldr r3, [sp, #8]
add r3, r2, r3
add r10, r3, r4
add r11, r10, r6
add r12, r11, r5
add lr, r12, r7
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r9
add r2, r1, r5
add r3, r2, r4
ldr r10, [sp, #32]
add r10, r3, r10
add r11, r7, r10, lsl #16
add r11, r11, r3, lsr #16
add r12, r11, r9
add lr, r12, r5
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r4
add r2, r1, r6
ldr r3, [sp, #8]
add r3, r2, r3
add r10, r3, r4
add r11, r10, r6
add r12, r11, r5
ldr lr, [sp, #24]
add lr, r12, lr
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, r8, lr, lsl #16
add r1, r1, r12, lsr #16
add r2, r1, r4
add r3, r2, r6
add r10, r3, r5
add r11, r10, r7
add r12, r11, r9
add lr, r12, r5
stmia r0!, {r1, r2, r3, r10, r11, r12, lr}
add r1, lr, r4
add r2, r1, r6
stmia r0!, {r1, r2}
