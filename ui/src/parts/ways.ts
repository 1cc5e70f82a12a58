// The modes, in the order in which a person is offered them.

/** One machine decides, or is asked alone. */
export const ALONE = ['auto', 'local', 'remote'] as const;
/** Machines together, or a small model with a large one. */
export const TOGETHER = ['layered', 'speculative', 'layered-speculative', 'preprocess'] as const;

export const WAYS: readonly string[] = [...ALONE, ...TOGETHER];
