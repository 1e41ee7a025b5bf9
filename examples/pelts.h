/* Pelts of hare and lynx traded by the Hudson's Bay Company, in thousands, 1900-1920: published
 * figures, as tabulated by P. Howard, "Modeling Basics" (lecture notes, Math 442, Texas A&M
 * University). */
#ifndef PELTS_H
#define PELTS_H
enum { PELT_YEARS = 21, PELT_FIRST_YEAR = 1900 };
static const double pelts_hare[PELT_YEARS] = { 30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1,
                                               21.4, 22.0, 25.4, 27.1, 40.3, 57.0, 76.6,
                                               52.3, 19.5, 11.2, 7.6,  14.6, 16.2, 24.7 };
static const double pelts_lynx[PELT_YEARS] = { 4.0,  6.1,  9.8,  35.2, 59.4, 41.7, 19.0,
                                               13.0, 8.3,  9.1,  7.4,  8.0,  12.3, 19.5,
                                               45.7, 51.1, 29.7, 15.8, 9.7,  10.1, 8.6 };
#endif
