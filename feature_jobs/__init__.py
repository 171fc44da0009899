"""Pure Spark transforms: DataFrame in, DataFrame out."""
