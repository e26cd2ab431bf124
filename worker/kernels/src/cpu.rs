//! What the processor can do, found out once at run time.

/// The instruction sets that the ops are written for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CpuLevel {
    /// Plain Rust: any processor.
    Portable,
    /// AVX2, FMA and F16C: x86-64 servers since 2013.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI: Ice Lake, Zen 4 and later.
    Avx512Vnni,
}

impl CpuLevel {
    /// The best level of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 && avx512 {
                return Self::Avx512Vnni;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The word for this level in logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// The level of that [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512Vnni].into_iter().find(|l| l.name() == name)
    }
}

/// A level that this machine is known to have: holding one is the proof that its instructions may
/// run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    level: CpuLevel,
}

impl Cpu {
    /// The best this machine has.
    pub fn detect() -> Self {
        Self { level: CpuLevel::detect() }
    }

    /// `level`, or the best this machine has where that is less.
    pub fn at_most(level: CpuLevel) -> Self {
        Self { level: level.min(CpuLevel::detect()) }
    }

    /// The level whose instructions may run.
    pub fn level(self) -> CpuLevel {
        self.level
    }
}
