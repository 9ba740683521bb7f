//! What firmware prints: text, then a line `--- report`, then lines `name=value`, and `ok` as the last one.

use anyhow::{Context, Result, bail};

/// Line between text and report.
const MARK: &str = "--- report\n";

/// A firmware's output, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// What the model wrote, the prompt in front.
    pub text: &'a str,
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Report<'a> {
    /// Takes `output` apart. The model may write anything, so the last mark counts.
    pub fn parse(output: &'a str) -> Result<Self> {
        let Some((text, report)) = output.rsplit_once(MARK) else {
            bail!(
                "no report, the last line is: {}",
                output.lines().last().unwrap_or("(nothing)")
            );
        };
        let Some(lines) = report.strip_suffix("ok\n") else {
            bail!(
                "the report does not end in ok: {}",
                report.lines().last().unwrap_or("(nothing)")
            );
        };
        let values = lines
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        Ok(Self {
            text: text.trim_end_matches('\n'),
            values,
        })
    }

    fn value(&self, name: &str) -> Result<&'a str> {
        let found = self.values.iter().find(|(known, _)| *known == name);
        found
            .map(|(_, value)| *value)
            .with_context(|| format!("the report has no {name}"))
    }

    /// A hash, eight hexadecimal digits.
    pub fn hash(&self, name: &str) -> Result<u32> {
        let value = self.value(name)?;
        if value.len() != 8 {
            bail!("{name}={value} is not a hash");
        }
        u32::from_str_radix(value, 16).with_context(|| format!("{name}={value} is not a hash"))
    }

    /// A decimal number.
    pub fn count(&self, name: &str) -> Result<u64> {
        let value = self.value(name)?;
        value
            .parse()
            .with_context(|| format!("{name}={value} is not a number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_values_are_told_apart() {
        let report =
            Report::parse("Ada\n--- report\ntokens_hash=00c0ffee\nram_bytes=12\nok\n").unwrap();
        assert_eq!(report.text, "Ada");
        assert_eq!(report.hash("tokens_hash").unwrap(), 0x00c0_ffee);
        assert_eq!(report.count("ram_bytes").unwrap(), 12);
    }

    #[test]
    fn a_model_that_writes_a_report_is_not_believed() {
        let output = "--- report\nstate_hash=11111111\nok\n\n--- report\nstate_hash=22222222\nok\n";
        assert_eq!(
            Report::parse(output).unwrap().hash("state_hash").unwrap(),
            0x2222_2222
        );
    }

    #[test]
    fn output_without_ok_at_the_end_is_refused() {
        assert!(Report::parse("--- report\nram_bytes=1\n").is_err());
        assert!(Report::parse("--- report\nok\nfailed: stack\n").is_err());
        assert!(Report::parse("").is_err());
    }

    #[test]
    fn a_failure_is_quoted() {
        let error = Report::parse("Ada\nfailed: the blob is damaged\n").unwrap_err();
        assert!(error.to_string().contains("the blob is damaged"), "{error}");
    }

    #[test]
    fn missing_and_malformed_values_are_errors() {
        let report = Report::parse("--- report\ntokens_hash=12\nram_bytes=many\nok\n").unwrap();
        assert!(report.hash("tokens_hash").is_err());
        assert!(report.count("ram_bytes").is_err());
        assert!(report.count("stack_bytes").is_err());
    }
}
