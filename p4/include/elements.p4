// P4 has no loops: EACH_ELEMENT(DO) stands for DO(0) DO(1) ... DO(ELEMENTS - 1).

#define TEN(DO, t) DO(t##0) DO(t##1) DO(t##2) DO(t##3) DO(t##4) DO(t##5) DO(t##6) DO(t##7) DO(t##8) DO(t##9)

#define FIRST_60(DO) TEN(DO, ) TEN(DO, 1) TEN(DO, 2) TEN(DO, 3) TEN(DO, 4) TEN(DO, 5)

#if ELEMENTS == 64
#define EACH_ELEMENT(DO) FIRST_60(DO) DO(60) DO(61) DO(62) DO(63)
#else
#define FROM_60(DO) TEN(DO, 6) TEN(DO, 7) TEN(DO, 8) TEN(DO, 9) TEN(DO, 10) TEN(DO, 11) TEN(DO, 12)
#define FROM_130(DO) TEN(DO, 13) TEN(DO, 14) TEN(DO, 15) TEN(DO, 16) TEN(DO, 17) TEN(DO, 18)
#define FROM_190(DO) TEN(DO, 19) TEN(DO, 20) TEN(DO, 21) TEN(DO, 22) TEN(DO, 23) TEN(DO, 24)
#define FROM_250(DO) DO(250) DO(251) DO(252) DO(253) DO(254) DO(255)
#define EACH_ELEMENT(DO) FIRST_60(DO) FROM_60(DO) FROM_130(DO) FROM_190(DO) FROM_250(DO)
#endif
