//! The inner product of two f32 vectors, as fast as the processor allows.

/// Inner product of `a` and `b`; the longer one's surplus is ignored.
///
/// The instruction set is chosen at run time. Different ones sum in different orders, so results differ in their last
/// bits between machines: never let replicated state depend on them.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has AVX-512F, which is all that the function asks for.
            return unsafe { x86::avx512(a, b) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, which is all that the function asks for.
            return unsafe { x86::avx2(a, b) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the processor has NEON, which is all that the function asks for.
        return unsafe { arm::neon(a, b) };
    }
    portable(a, b)
}

/// Sixteen sums at once, which compilers turn into whatever vectors the target has.
fn portable(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for (a, b) in a.iter().zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Four independent sums hide the latency of the fused multiply-add.
    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [_mm512_setzero_ps(); 4];
        let (a_blocks, a) = a.as_chunks::<64>();
        let (b_blocks, b) = b.as_chunks::<64>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: i < 4, so 16 floats from 16 * i lie inside the 64 of each block; loadu needs no alignment.
                let (x, y) = unsafe { (load512(a, 16 * i), load512(b, 16 * i)) };
                *sum = _mm512_fmadd_ps(x, y, *sum);
            }
        }
        let (a_blocks, a) = a.as_chunks::<16>();
        let (b_blocks, b) = b.as_chunks::<16>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            // SAFETY: each block is exactly 16 floats.
            let (x, y) = unsafe { (load512(a, 0), load512(b, 0)) };
            sums[0] = _mm512_fmadd_ps(x, y, sums[0]);
        }
        let sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        _mm512_reduce_add_ps(sum) + a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
    }

    /// As above, with half as wide registers.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [_mm256_setzero_ps(); 4];
        let (a_blocks, a) = a.as_chunks::<32>();
        let (b_blocks, b) = b.as_chunks::<32>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: i < 4, so 8 floats from 8 * i lie inside the 32 of each block; loadu needs no alignment.
                let (x, y) = unsafe { (load256(a, 8 * i), load256(b, 8 * i)) };
                *sum = _mm256_fmadd_ps(x, y, *sum);
            }
        }
        let sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
        let mut lanes = [0.0f32; 8];
        // SAFETY: `lanes` has room for 8 floats; storeu needs no alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum::<f32>() + a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
    }

    /// # Safety
    /// `from + 16 <= v.len()`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load512(v: &[f32], from: usize) -> __m512 {
        // SAFETY: the caller keeps 16 floats from `from` inside `v`.
        unsafe { _mm512_loadu_ps(v.as_ptr().add(from)) }
    }

    /// # Safety
    /// `from + 8 <= v.len()`.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load256(v: &[f32], from: usize) -> __m256 {
        // SAFETY: the caller keeps 8 floats from `from` inside `v`.
        unsafe { _mm256_loadu_ps(v.as_ptr().add(from)) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    /// Four independent sums hide the latency of the fused multiply-add.
    #[target_feature(enable = "neon")]
    pub(super) fn neon(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [vdupq_n_f32(0.0); 4];
        let (a_blocks, a) = a.as_chunks::<16>();
        let (b_blocks, b) = b.as_chunks::<16>();
        for (a, b) in a_blocks.iter().zip(b_blocks) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: i < 4, so 4 floats from 4 * i lie inside the 16 of each block.
                let (x, y) = unsafe { (vld1q_f32(a.as_ptr().add(4 * i)), vld1q_f32(b.as_ptr().add(4 * i))) };
                *sum = vfmaq_f32(*sum, x, y);
            }
        }
        let sum = vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3]));
        vaddvq_f32(sum) + a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every implementation that this processor can run.
    fn all(a: &[f32], b: &[f32]) -> Vec<(&'static str, f32)> {
        let mut out = vec![("dispatched", dot(a, b)), ("portable", portable(a, b))];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the processor has AVX-512F.
                out.push(("avx512", unsafe { x86::avx512(a, b) }));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has AVX2 and FMA.
                out.push(("avx2", unsafe { x86::avx2(a, b) }));
            }
        }
        out
    }

    proptest! {
        #[test]
        fn equals_f64(pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 0..700)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let exact: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            let magnitude: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a * b).abs()).sum();
            for (name, got) in all(&a, &b) {
                let error = (f64::from(got) - exact).abs();
                prop_assert!(error <= magnitude * 1e-5 + 1e-12, "{name}: {got} for {exact}");
            }
        }
    }

    #[test]
    fn the_surplus_is_ignored_and_nothing_is_zero() {
        assert_eq!(dot(&[1.0, 2.0, 3.0], &[4.0, 5.0]), 14.0);
        assert_eq!(dot(&[], &[1.0]), 0.0);
    }

    /// Every length around every block size, with values that sum exactly, so that no lane is lost or read twice.
    #[test]
    fn every_length_is_exact_on_small_integers() {
        for n in 0..200usize {
            let a: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 5) as f32).collect();
            let want: usize = (0..n).map(|i| (i % 7) * (i % 5)).sum();
            for (name, got) in all(&a, &b) {
                assert_eq!(got, want as f32, "{name}, length {n}");
            }
        }
    }
}
