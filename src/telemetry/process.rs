//! What the process takes of its machine, by the names that Prometheus has for it
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>).

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Asked at each scrape. Elsewhere than on Linux it tells the start alone.
#[derive(Debug)]
pub(super) struct Process {
    /// When it started, Unix seconds.
    pub started: i64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tell = |name: &str, help: &str, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        tell(
            "process_start_time_seconds",
            "When the process started, Unix seconds",
            &ConstGauge::new(self.started),
        )?;
        let Some(usage) = Usage::now() else {
            return Ok(());
        };
        tell(
            "process_cpu_seconds",
            "Processor time taken, in the kernel too",
            &ConstCounter::new(usage.cpu.as_secs_f64()),
        )?;
        tell(
            "process_resident_memory_bytes",
            "Memory that is resident",
            &ConstGauge::new(usage.resident_bytes),
        )?;
        tell(
            "process_open_fds",
            "Files and sockets that are open",
            &ConstGauge::new(usage.open_files),
        )?;
        tell(
            "process_max_fds",
            "How many files and sockets may be open",
            &ConstGauge::new(usage.open_files_max),
        )
    }
}

struct Usage {
    cpu: Duration,
    resident_bytes: u64,
    open_files: usize,
    open_files_max: u64,
}

impl Usage {
    #[cfg(target_os = "linux")]
    fn now() -> Option<Self> {
        use procfs::{WithCurrentSystemInfo, process::LimitValue};

        let process = procfs::process::Process::myself().ok()?;
        let stat = process.stat().ok()?;
        let ticks = stat.utime.saturating_add(stat.stime);
        let milliseconds = ticks
            .saturating_mul(1_000)
            .checked_div(procfs::ticks_per_second())?;
        Some(Self {
            cpu: Duration::from_millis(milliseconds),
            resident_bytes: stat.rss_bytes().get(),
            open_files: process.fd_count().ok()?,
            open_files_max: match process.limits().ok()?.max_open_files.soft_limit {
                LimitValue::Value(most) => most,
                LimitValue::Unlimited => u64::MAX,
            },
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn now() -> Option<Self> {
        None
    }
}
