//! Learning rate by the share of the run that is done.

use crate::config::TrainConfig;

/// Linear warm-up, then half a cosine from the peak to `min_lr * peak`; `done` in `[0, 1]`.
pub fn learning_rate(config: &TrainConfig, done: f64) -> f64 {
    let done = done.clamp(0.0, 1.0);
    if done < config.warmup {
        // Never quite 0: the first step counts.
        return config.lr * (done / config.warmup).max(0.01);
    }
    let along = (done - config.warmup) / (1.0 - config.warmup);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * along).cos());
    config.lr * (config.min_lr + (1.0 - config.min_lr) * cosine)
}
