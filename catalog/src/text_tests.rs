use proptest::prelude::*;

use super::*;

fn round_trip(ty: LakeType, bound: Bound) {
    let text = encode(&ty, &bound).unwrap();
    assert_eq!(decode(&ty, &text), Some(bound), "{ty}: {text}");
}

#[test]
fn the_forms_duckdb_writes() {
    let decimal = LakeType::Decimal { precision: 12, scale: 2 };
    for (ty, bound, text) in [
        (LakeType::Boolean, Bound::Boolean(true), "1"),
        (LakeType::Int32, Bound::Int(-7), "-7"),
        (LakeType::UInt64, Bound::UInt(u64::MAX), "18446744073709551615"),
        (LakeType::Float64, Bound::Float(25.0), "25.0"),
        (LakeType::Float64, Bound::Float(6.857142857142857), "6.857142857142857"),
        (LakeType::Float64, Bound::Float(f64::NEG_INFINITY), "-inf"),
        (LakeType::Float32, Bound::Float(f64::from(0.1f32)), "0.1"),
        (decimal.clone(), Bound::Decimal(7200), "72.00"),
        (decimal.clone(), Bound::Decimal(-5), "-0.05"),
        (LakeType::Date, Bound::Date(19_723), "2024-01-01"),
        (LakeType::Time, Bound::Time(45_000_500_000), "12:30:00.5"),
        (LakeType::Timestamp, Bound::Timestamp(1_730_419_200_000_000), "2024-11-01 00:00:00"),
        (LakeType::TimestampTz, Bound::Timestamp(1_704_067_200_000_000), "2024-01-01 00:00:00+00"),
        (LakeType::TimestampNs, Bound::Timestamp(1), "1970-01-01 00:00:00.000000001"),
        (LakeType::TimestampMs, Bound::Timestamp(1), "1970-01-01 00:00:00.001"),
        (LakeType::Blob, Bound::Blob(vec![0, 0xAB]), "00AB"),
        (LakeType::Varchar, Bound::Text("b48".to_owned()), "b48"),
    ] {
        assert_eq!(encode(&ty, &bound).as_deref(), Some(text));
        round_trip(ty, bound);
    }
}

#[test]
fn a_text_that_is_no_bound_prunes_nothing() {
    let decimal = LakeType::Decimal { precision: 5, scale: 2 };
    for (ty, text) in [
        (LakeType::Boolean, "yes"),
        (LakeType::Int64, "1.5"),
        (LakeType::UInt8, "-1"),
        (LakeType::Float64, "nan"),
        (decimal, "1.234"),
        (LakeType::Date, "2024-00-01"),
        (LakeType::Blob, "ABC"),
        (LakeType::Uuid, "none"),
        (LakeType::List, "[]"),
    ] {
        assert_eq!(decode(&ty, text), None, "{ty}: {text}");
    }
}

#[test]
fn long_texts_are_cut_to_bounds() {
    let long = "ab".repeat(300);
    assert_eq!(text_floor(&long).len(), 256);
    assert_eq!(text_ceiling(&long).unwrap().len(), 256);
    assert!(text_ceiling(&long).unwrap().ends_with('c'));
    assert_eq!(text_ceiling(&"\u{10ffff}".repeat(100)), None);
    assert_eq!(text_ceiling("a\0b").as_deref(), Some("b"));
    assert_eq!(text_floor("a\0b"), "a");
    assert_eq!(text_ceiling("\0"), None);
    let edge = "x".repeat(255) + "\u{d7ff}" + "tail";
    assert_eq!(text_ceiling(&edge).unwrap(), "x".repeat(254) + "y");
}

#[test]
fn arrays_have_the_type_of_the_column() {
    for ty in [
        LakeType::Boolean,
        LakeType::Int8,
        LakeType::UInt32,
        LakeType::Float32,
        LakeType::Decimal { precision: 38, scale: 10 },
        LakeType::Date,
        LakeType::Time,
        LakeType::TimestampS,
        LakeType::TimestampNs,
        LakeType::TimestampTz,
        LakeType::Json,
        LakeType::Blob,
        LakeType::Uuid,
    ] {
        let values = array(&ty, [None, None]).unwrap();
        assert_eq!(Some(values.data_type().clone()), ty.leaf_arrow());
        assert_eq!((values.len(), values.null_count()), (2, 2));
    }
    let too_big = array(&LakeType::Int8, [Some(Bound::Int(1000)), Some(Bound::Int(5))]).unwrap();
    assert_eq!(too_big.null_count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_bound_round_trips(
        int in any::<i64>(), uint in any::<u64>(), float in any::<f64>(), wide in any::<i128>(), days in any::<i32>(),
        bytes in any::<Vec<u8>>(), scale in 0u8..=38,
    ) {
        round_trip(LakeType::Int64, Bound::Int(int));
        round_trip(LakeType::UInt64, Bound::UInt(uint));
        round_trip(LakeType::Date, Bound::Date(days));
        round_trip(LakeType::Time, Bound::Time(int.rem_euclid(86_400_000_000)));
        round_trip(LakeType::Blob, Bound::Blob(bytes));
        for ty in [LakeType::TimestampS, LakeType::TimestampMs, LakeType::Timestamp, LakeType::TimestampNs, LakeType::TimestampTz] {
            round_trip(ty, Bound::Timestamp(int));
        }
        if !float.is_nan() {
            round_trip(LakeType::Float64, Bound::Float(float));
            round_trip(LakeType::Float32, Bound::Float(f64::from(float as f32)));
        }
        let wide = wide % 10i128.pow(38);
        round_trip(LakeType::Decimal { precision: 38, scale }, Bound::Decimal(wide));
    }

    #[test]
    fn cut_texts_stay_bounds(text in any::<String>(), repeat in 1usize..100) {
        let text = text.repeat(repeat);
        prop_assert!(text_floor(&text).as_bytes() <= text.as_bytes());
        if let Some(ceiling) = text_ceiling(&text) {
            prop_assert!(ceiling.as_bytes() >= text.as_bytes());
            prop_assert!(!ceiling.contains('\0') && ceiling.len() <= TEXT_BYTES_MAX + 4);
        }
    }
}

#[test]
fn what_a_column_cannot_hold_is_no_bound_of_it() {
    let decimal = LakeType::Decimal { precision: 4, scale: 2 };
    for (ty, text, fits) in [
        (LakeType::Int32, "2147483647", true),
        (LakeType::Int32, "5000000000", false),
        (LakeType::Int8, "-129", false),
        (LakeType::UInt16, "65535", true),
        (LakeType::UInt16, "65536", false),
        (LakeType::Int64, "5000000000", true),
        (decimal.clone(), "-99.99", true),
        (decimal, "100.00", false),
    ] {
        assert_eq!(decode(&ty, text).is_some(), fits, "{ty} {text}");
    }
}
